"""Image files, read with every header distrusted."""
