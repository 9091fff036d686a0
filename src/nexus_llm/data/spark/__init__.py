"""The same passes on Spark."""
