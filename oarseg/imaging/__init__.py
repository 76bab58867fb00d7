"""Images in space: grids, orientations, transforms, intensities."""
