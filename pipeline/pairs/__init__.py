"""Prompts with answers for fine-tuning: read, checked, put into chat form, and written as shards with masks."""
