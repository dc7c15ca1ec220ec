"""Training methods, one file each, read from top to bottom."""
