"""Files of every format become documents, block by block."""
