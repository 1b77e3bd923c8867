"""The embedded database: what users hold. Threads enter here; nothing is decided here."""
