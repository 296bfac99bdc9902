"""Dynamic batching: queue entries, their queues, and the batcher that runs them."""
