"""Advice on a data set."""
