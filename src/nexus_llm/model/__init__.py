"""Base models: found by name, fetched once, checked, and kept as Hugging Face folders."""
