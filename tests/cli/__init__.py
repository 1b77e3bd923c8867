"""Tests of the command line: grammar, verbs, files, and the program as a process."""
