"""Sliding-window inference as in nnU-Net, computed a few planes at a time."""
