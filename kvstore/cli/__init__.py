"""The command line: text in, text out. It sees only kvstore's public face; ``app.main`` is its door."""
