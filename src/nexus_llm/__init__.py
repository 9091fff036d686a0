"""Nexus LLM: own your language model, from raw text to an answering API."""

__version__ = "0.1.0"
