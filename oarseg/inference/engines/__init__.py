"""Runs a network on OpenVINO, ONNX Runtime or CUDA behind one interface."""
