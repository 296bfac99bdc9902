"""The second stage of a VQ-VAE: a prior over its codes, from which it can generate."""
