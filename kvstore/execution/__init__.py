"""What a transaction does to data: deterministic, on a table."""
