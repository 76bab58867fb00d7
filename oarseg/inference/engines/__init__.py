"""One network behind one call: OpenVINO, ONNX Runtime, CUDA."""
