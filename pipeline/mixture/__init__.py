"""Mixtures over finished runs' shards: another manifest, no other tokens."""
