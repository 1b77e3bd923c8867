"""``python -m kvstore`` runs the command ``kvstore``."""

from kvstore.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
