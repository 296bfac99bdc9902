"""What is drawn one by one: a prior over the dimensions of a code, and the pixels of an image."""
