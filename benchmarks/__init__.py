"""The speed of the store, measured beside sqlite3 and the floor in one run."""
