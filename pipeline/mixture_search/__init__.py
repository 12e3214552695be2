"""Search for the mixture that trains best: small models on drawn mixtures, a regression, the best mixture by it, measured again.

As in RegMix (Liu et al. 2024, arXiv 2407.01492) and Olmix (Chen et al. 2026, arXiv 2602.12237).
"""
