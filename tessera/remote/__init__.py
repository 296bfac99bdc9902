"""Models behind a running service."""
