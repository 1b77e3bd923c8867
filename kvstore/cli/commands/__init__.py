"""The commands of the shell and of the program."""
