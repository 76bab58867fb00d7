"""One command, files to files; what fails costs one case."""
