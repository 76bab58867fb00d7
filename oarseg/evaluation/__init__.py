"""Scores of masks against references, and rankings of models by those scores."""
