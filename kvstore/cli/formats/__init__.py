"""Formats of records: CSV, JSON Lines and dumps in files, tables on a terminal."""
