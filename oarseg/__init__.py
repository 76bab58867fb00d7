"""oarseg: nnU-Net v2 checkpoints as a torch-free container for radiotherapy contouring."""

__version__ = "0.1.0"
