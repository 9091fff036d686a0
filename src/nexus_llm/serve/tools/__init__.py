"""Calls of tools: what a request may ask for, and how each family of models spells a call in its answer."""
