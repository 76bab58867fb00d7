"""What of a case's organs is implausible, and the little of it that can be repaired."""
