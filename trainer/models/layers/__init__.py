"""Building blocks with no opinion about the model they serve."""
