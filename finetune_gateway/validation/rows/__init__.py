"""Rules about the inside of a row."""
