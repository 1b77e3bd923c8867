"""The command line: its grammar, its verbs, its files, and the program as a user starts it."""
