"""From events and feature tables to training examples: requests, candidates, labels, splits."""
