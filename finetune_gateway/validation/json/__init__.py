"""Lines as JSON, and what is wrong with those that are not."""
