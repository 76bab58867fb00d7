"""The weights folder: manifest, hashes, and the challenge a model was trained for."""
