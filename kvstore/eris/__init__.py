"""Ordering and atomicity inside a region: pure state machines (Eris, SOSP 2017)."""
