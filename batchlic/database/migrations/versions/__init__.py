"""One file for each version of the schema. A published file never changes."""
