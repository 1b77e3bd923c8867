"""Tests of the drivers: threads, closing, and what a store keeps while it is open."""
