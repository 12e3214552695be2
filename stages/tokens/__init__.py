"""From text to token shards: tokenizer, tokenization, shards, mixture and manifest."""
