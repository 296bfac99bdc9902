"""An adversarial loss for reconstructions: a discriminator of patches, its losses and its training."""
