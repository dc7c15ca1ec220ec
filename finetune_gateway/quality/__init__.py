"""What a dataset holds beyond its form: repeats, leaks, personal data, what it will teach."""
