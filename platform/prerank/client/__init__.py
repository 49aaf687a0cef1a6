"""Callers of a deployment: ``prerank.Client`` and ``prerank.AsyncClient``."""
