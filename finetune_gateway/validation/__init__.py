"""Judging a dataset: every row, then all of them together."""
