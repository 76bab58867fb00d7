"""Volumes in space: grids, orientations, transforms, intensities."""
