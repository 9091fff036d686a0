"""What running a model costs, whether it pays, and what it must never exceed."""
