"""The command line, built only on kvstore's public interface; ``app.main`` is its entry point."""
