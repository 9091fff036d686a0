"""Engines turn token ids into token ids, each in a child process of its own that a supervisor keeps alive."""
