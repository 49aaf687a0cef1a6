"""What an online experiment shows: served requests, what was done with them, and statistics."""
