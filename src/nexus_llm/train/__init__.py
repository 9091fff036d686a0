"""The training loop: exact to the bit, and resumable from any moment."""
