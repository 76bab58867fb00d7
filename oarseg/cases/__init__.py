"""Find the input files that make up a case, and name its outputs."""
