"""Ourselves against the peers, measured side by side: `make bench`. Never part of the test suite."""
