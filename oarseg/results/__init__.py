"""What a run leaves for the user: a case's files and pictures, all of them or none."""
