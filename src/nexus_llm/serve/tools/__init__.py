"""Calls of tools: what a request may ask for, and how each family of models spells a call in its answer.

calls       a call, and where a JSON value in a growing text ends
formats     the spellings: Hermes and Qwen, Llama 3, Mistral
parser      an answer that arrives in pieces, as text and calls
choice      `tool_choice` that forces a call, as a JSON Schema
"""

from nexus_llm.serve.tools.calls import Call
from nexus_llm.serve.tools.choice import forced_call_schema
from nexus_llm.serve.tools.formats import CALLS_ALONE, CallFormat, format_of_template
from nexus_llm.serve.tools.parser import CallParser, Parsed

__all__ = ["CALLS_ALONE", "Call", "CallFormat", "CallParser", "Parsed", "forced_call_schema", "format_of_template"]
