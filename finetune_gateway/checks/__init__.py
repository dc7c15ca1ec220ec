"""The rules of a dataset: what is read, what is judged, what is said (``gate.validate``)."""
