"""What people see of a result: as text, as a page, as JSON."""
