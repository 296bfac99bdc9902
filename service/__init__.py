"""The Tessera service: image codes over REST from ONNX Runtime. Never imports torch."""

__version__ = "0.1.0"
