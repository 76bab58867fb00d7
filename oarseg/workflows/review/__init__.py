"""Judge what was segmented: checks, repairs, and pages to look at."""
