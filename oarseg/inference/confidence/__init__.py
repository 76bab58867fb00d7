"""How sure a model is of what it labels."""
