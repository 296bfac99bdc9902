"""Encoders and decoders in float32, TF32, float16 and bfloat16: by ONNX Runtime and by torch."""
