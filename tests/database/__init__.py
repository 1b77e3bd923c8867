"""Tests of the embedded database: the calls that users make."""
