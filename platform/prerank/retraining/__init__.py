"""A day's work with a new model at its end: update, train, gate, promote, and what has changed."""
