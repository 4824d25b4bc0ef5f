"""Inventories in any format to clean, validated, deduplicated device rows and rejects."""
