"""Numba functions over the UTF-8 bytes and offsets of a text column, and nothing else."""
