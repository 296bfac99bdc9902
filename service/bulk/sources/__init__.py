"""What a run reads. Every kind of source says how it is cut into shards, and gives the items of a shard."""
