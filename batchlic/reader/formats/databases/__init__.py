"""Inventories in databases: the rows of a query, by the driver of each database (PEP 249)."""
