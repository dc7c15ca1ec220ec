"""Asking a model many prompts, and keeping what it answers."""
