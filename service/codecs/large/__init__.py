"""Images that are too large to be decoded at once: read and written some rows at a time."""
