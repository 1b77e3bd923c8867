"""What the store claims of its speed, measured beside sqlite3 and beside the floor, in one run."""
