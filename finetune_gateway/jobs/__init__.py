"""Jobs: planned, sent once, stored, watched; and the handle that comes of one."""
