"""Command lines of the DVC stages: each parses its arguments and calls one library function."""
