"""Merge, convert, and prove that what is shipped is what was trained."""
