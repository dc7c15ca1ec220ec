"""Requests for current prices of hosts."""
