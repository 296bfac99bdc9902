"""What a Gaussian VAE exports, and the noise contrastive prior: its energy, its training, its samplers."""
