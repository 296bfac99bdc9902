"""Samplers, each a chain that becomes one ONNX graph."""
