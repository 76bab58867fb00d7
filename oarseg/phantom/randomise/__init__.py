"""Phantoms varied towards real patients and scans; what varies, and how far, is in two TOML files."""
