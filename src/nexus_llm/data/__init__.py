"""From sources to token shards, with a reason for every document that vanished."""
