"""The report: one self-contained page, and its tables as text."""
