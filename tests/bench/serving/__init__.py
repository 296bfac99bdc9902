"""The service and its peers under load: `python -m tests.bench serving`."""
