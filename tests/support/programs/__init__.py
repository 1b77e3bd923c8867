"""Programs that tests run as child processes: to kill, interrupt or fork them, or to fill their disk."""
