"""The training data: which instances of which shards are read when, and reading them. See `data.py` first."""
