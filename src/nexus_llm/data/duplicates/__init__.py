"""Who repeats whom, in bounded memory, and who is held out."""
