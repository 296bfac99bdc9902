"""What is reported of a model, all of it measured on what was exported, through ONNX Runtime."""
