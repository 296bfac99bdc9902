"""The architectures and their parts."""
