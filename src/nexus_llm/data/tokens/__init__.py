"""Documents become token ids, shards, and a mix of sources."""
