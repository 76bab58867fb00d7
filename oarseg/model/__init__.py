"""Trained models: manifest, networks and the challenge that a model was trained for."""
