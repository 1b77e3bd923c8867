"""Programs that tests run as processes of their own: to kill, to interrupt, to fork, to starve of disk."""
