"""Published models to the Hugging Face hub."""
