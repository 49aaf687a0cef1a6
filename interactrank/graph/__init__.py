"""The graph of who engaged what, for which query: which items are near to which."""
