"""A trained model to a weights folder: ONNX files that agree with torch, and their manifest."""
