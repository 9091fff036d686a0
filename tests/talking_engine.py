"""What makes the fake engine call a tool or spell a document: a chat template that knows tools, and words to say."""

from __future__ import annotations

from nexus_llm.chat import ChatTokenizer

TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "{# calls: <tool_call>{...}</tool_call> #}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SAID = 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm", "unit": "C"}}\n</tool_call>'


def byte_token_ids(tokenizer: ChatTokenizer) -> list[int]:
    """The token of each byte; the pre-tokenizer's alphabet spells bytes as characters."""
    from tokenizers.pre_tokenizers import ByteLevel

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}
    assert set(spelled.values()) == set(ByteLevel.alphabet())
    ids = [tokenizer.token_id(spelled[byte]) for byte in range(256)]
    return [one for one in ids if one is not None]
