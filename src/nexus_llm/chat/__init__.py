"""Conversations become token ids here and nowhere else: in data, training, packaging, evaluation and serving.

conversations   a conversation as templates take it: calls with their arguments as values, nothing that is null
template        Jinja as transformers runs it; which message wrote which part of the text
turns           where the assistant's words lie in the text; what a template leaves out
tokenizer       text to ids and back, control tokens kept apart from what people typed
streaming       ids that arrive one by one, as text
"""

from nexus_llm.chat.streaming import StreamDecoder
from nexus_llm.chat.template import Tools, default_template
from nexus_llm.chat.tokenizer import ChatTokenizer, EncodedConversation

__all__ = ["ChatTokenizer", "EncodedConversation", "StreamDecoder", "Tools", "default_template"]
