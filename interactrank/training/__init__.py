"""Losses, the optimiser loop and the stacking of the fusion."""
