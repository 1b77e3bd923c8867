"""The store at work: Python's Unicode character database in it, and a few questions about that."""
