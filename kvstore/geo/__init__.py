"""Regions: worlds of databases that each work alone and agree in the end (docs/fuzzylog.md)."""
