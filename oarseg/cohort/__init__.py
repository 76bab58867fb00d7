"""Cohorts of thousands: the output folder says what is to do, who does it, and what is done."""
