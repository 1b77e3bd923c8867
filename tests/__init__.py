"""Tests mirror the rooms of the store; what several of them share is in ``support``."""
