"""Samplers, each of which becomes one ONNX graph, and what they share."""
