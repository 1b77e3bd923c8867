"""The bank of the demo."""
