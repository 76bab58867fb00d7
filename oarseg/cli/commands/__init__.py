"""The commands, each with its options and its texts."""
