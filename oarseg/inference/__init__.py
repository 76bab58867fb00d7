"""nnU-Net's answer, computed a few planes at a time."""
