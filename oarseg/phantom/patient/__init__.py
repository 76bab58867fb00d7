"""The patient: anatomy, pose and tissues."""
