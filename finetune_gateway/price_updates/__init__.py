"""Asking hosts for their prices of today."""
