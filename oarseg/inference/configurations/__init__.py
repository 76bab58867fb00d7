"""A model of several configurations: cascades, and probabilities that are averaged."""
