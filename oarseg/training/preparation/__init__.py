"""A labelled data set to the raw data set that nnU-Net trains on."""
