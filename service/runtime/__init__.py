"""ONNX Runtime: providers, sessions, IO binding and memory."""
