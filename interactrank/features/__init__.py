"""Features: the schema, packed rows, text, and the functions that compute them."""
