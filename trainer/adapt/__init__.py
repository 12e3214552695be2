"""After pretraining: fine-tuning on answers, preferences, inverse reinforcement learning, and what comes of them."""
