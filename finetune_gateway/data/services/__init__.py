"""Rows of other services and logs of requests: one module each, one line each in ``formats``."""
