"""From a team's files to canonical events and items; bad rows go to quarantine with a reason."""
