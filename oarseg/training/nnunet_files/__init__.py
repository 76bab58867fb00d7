"""nnU-Net's own files, read with every value distrusted: plans, data set, checkpoints."""
