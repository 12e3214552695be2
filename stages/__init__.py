"""What happens to documents: read, extract, filter, classify, dedup, tokenize, shard, mix.

Knows nothing of Ray or of where files lie: a stage is handed record batches and local or open files.
"""
