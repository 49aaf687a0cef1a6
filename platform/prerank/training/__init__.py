"""Fitting the model on Ray Train."""
