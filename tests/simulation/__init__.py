"""Whole clusters under faults, from a seed, and what must be true of them (contracts E)."""
