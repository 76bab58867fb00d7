"""DICOM objects of a case: RT Structure Set and Segmentation."""
