"""Classifiers: language, quality, and the training of the latter."""
