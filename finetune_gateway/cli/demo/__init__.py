"""``ftg demo``: a tiny model trained here, and what it answers."""
