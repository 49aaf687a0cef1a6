"""Model versions: bundles, item indexes, MLflow runs, registration and promotion."""
