"""Where pictures come from: folders, IDX files, torchvision and the Hugging Face hub."""
