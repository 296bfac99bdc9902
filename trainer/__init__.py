"""The Tessera trainer: fits models of the VAE family with PyTorch and exports them for the service."""
