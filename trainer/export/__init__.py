"""From a trained model to a bundle that the service serves."""
