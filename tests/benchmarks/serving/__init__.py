"""The service and its peers under load: `python -m tests.benchmarks serving`."""
