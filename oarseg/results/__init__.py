"""The outputs of a case: files and pictures, written all together or not at all."""
