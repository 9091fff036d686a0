"""Whether a document is worth learning from, and what must not be in it."""
