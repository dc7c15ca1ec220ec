"""Rows as a model sees them, token by token, with what is trained."""
