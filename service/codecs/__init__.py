"""Bytes to arrays and back: images, npy, JSON and tensors of the Open Inference Protocol."""
