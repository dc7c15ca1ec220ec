"""New files from old ones: convert, fix, split."""
