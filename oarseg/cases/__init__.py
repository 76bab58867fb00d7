"""Which files make a case, and what its outputs are called."""
