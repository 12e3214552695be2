"""The recipe: its models, what is laid over it, its checks, and how it is described to people."""
