"""Tests of regions: worlds in one process, in several, and over links."""
