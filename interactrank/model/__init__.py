"""The model and the scorer of one request."""
