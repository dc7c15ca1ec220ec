"""Money, time and memory of a run, before it."""
