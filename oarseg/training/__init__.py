"""Labelled cases to ONNX files. Only this package imports torch and nnunetv2."""
