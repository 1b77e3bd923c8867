"""Regions in the simulator: what their clients do, what goes wrong, and the judges."""
