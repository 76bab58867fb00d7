"""How a case is computed: where, how exactly, how much of it, and whether that fits into memory."""
