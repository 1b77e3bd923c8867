"""Recorded histories of transactions: their types and formats, and the checkers that judge them."""
