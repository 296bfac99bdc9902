"""What runs the shards of a plan: one process, or a pool of actors on Ray Data."""
