"""From canonical events to feature tables, and their join as of a request (offline)."""
