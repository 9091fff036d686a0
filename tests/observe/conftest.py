"""The tiny model and its servers, as tests of serving use them."""

from serve.conftest import echo_model, tokenizer

__all__ = ["echo_model", "tokenizer"]
