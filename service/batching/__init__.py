"""Requests of many callers to batches: what waits, and where and when it runs."""
