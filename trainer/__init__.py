"""The OLMoE model and its training. Reads a run's manifest and token shards, nothing else of the pipeline."""
