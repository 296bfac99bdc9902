"""``/diffusers``: the protocol of the remote VAE of diffusers, as its own client speaks it."""
