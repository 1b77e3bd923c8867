"""The embedded database: the objects that users hold. Threads enter here; the protocol runs below."""
