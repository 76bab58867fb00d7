"""Label maps and masks: find, open, measure and write them."""
