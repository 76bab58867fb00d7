"""Challenges as data: one TOML file each, and the records they load into."""
