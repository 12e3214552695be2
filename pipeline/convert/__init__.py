"""To and from the files of other tools: export of tokens and documents, import of tokens."""
