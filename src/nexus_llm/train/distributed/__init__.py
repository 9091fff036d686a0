"""One training run in several processes: who they are, how they start, what each holds, and how they resume."""
