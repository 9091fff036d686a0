"""Public corpora, and fetching them whole."""
