"""The Tessera service: image codes over REST from ONNX Runtime. Never imports torch."""
