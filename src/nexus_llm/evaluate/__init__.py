"""Base against tuned, paired, with an interval and a three-valued verdict."""
