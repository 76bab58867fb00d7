"""A case as one page to look at: self-contained, offline, without a script from elsewhere."""
