"""A look inside the experts: what routers do on held-out text (OLMoE, arXiv 2409.02060, section 5)."""
