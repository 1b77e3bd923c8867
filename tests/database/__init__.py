"""Tests of the embedded database: what users call."""
