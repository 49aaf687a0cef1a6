"""What a log and its catalogue look like, and the mapping that follows from it."""
