"""Upkeep of an open store: backup, compaction, status and verification."""
