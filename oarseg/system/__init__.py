"""What the machine grants, and what was used of it."""
