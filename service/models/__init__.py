"""Served models: bundles, their validation, and what runs them."""
