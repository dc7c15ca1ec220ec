"""For authors of backends: the suite of tests that every backend passes."""
