"""What Grand Challenge wants to know of a submission, and what it takes of a run."""
