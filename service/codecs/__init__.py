"""Bytes to arrays and back: pictures, npy, JSON and tensors of the Open Inference Protocol."""
