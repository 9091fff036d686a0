"""The gateway and the engine behind it."""
