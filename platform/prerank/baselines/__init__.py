"""Rivals that are not the model with parts left out: counts, BM25, a linear model, trees."""
