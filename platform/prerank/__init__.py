"""Pre-ranking platform: from an event log to a live Ray Serve deployment."""
