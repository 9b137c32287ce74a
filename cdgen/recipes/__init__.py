"""Recipes: what may be said, how mistakes are answered, and the digests that name what a recipe computes."""
