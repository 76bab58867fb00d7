"""The made-up patient: anatomy, pose, tissues."""
