"""HTML pages: one file each that loads nothing from anywhere and runs no script."""
