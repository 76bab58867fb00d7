"""What a manifest and a calibration are made of: kinds of value, records and refusals."""
