"""Ranking metrics, recall at a cut, calibration."""
