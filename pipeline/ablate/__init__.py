"""Experiments on data: arms that differ in the recipe, a model trained on each, compared on one evaluation text."""
