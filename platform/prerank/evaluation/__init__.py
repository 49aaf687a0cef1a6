"""Measuring rankers on held-out requests: baselines, ablations, parity and the report."""
