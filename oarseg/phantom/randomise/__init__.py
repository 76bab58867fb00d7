"""Phantoms varied towards real patients and scans, as two TOML files say."""
