"""Label maps and masks: found, opened, measured, written."""
