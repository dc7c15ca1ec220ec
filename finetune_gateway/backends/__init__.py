"""Places where jobs run. ``registry`` finds them by name."""
