"""The online store: filling it, reading it, and writing engagements into it."""
