"""Dynamic batching: the queues of entries, and where and when a batch of them runs."""
