"""Files and tables: how records are read from and written to CSV, JSON Lines, dumps and screens."""
