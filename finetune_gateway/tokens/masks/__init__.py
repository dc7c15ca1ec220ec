"""Previews: rows token by token, with what is trained."""
