"""Counting tokens, chat templates, and which tokens are trained."""
