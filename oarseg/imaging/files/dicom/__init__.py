"""Read series of DICOM slices without trusting a header."""
