"""Which part of an image is segmented: the patient, or where organs may lie."""
