"""Token files as other tools write and read them: the native shards (OLMo), datatrove, Megatron, Parquet, JSON lines.

Every reader gives `Block`s (block.py), every writer takes them: whole documents, their tokens in one flat array.
"""
