"""What a challenge asks for, as data: a TOML file each, and the records they load into."""
