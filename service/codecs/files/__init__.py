"""Image files of clients: what is read of them before, and instead of, Pillow."""
