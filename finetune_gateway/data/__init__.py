"""Files and rows: reading, formats, strict JSON."""
