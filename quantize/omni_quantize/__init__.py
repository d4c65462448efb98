"""Recipes and methods for fewer bits: which weights, how, and what it costs."""
