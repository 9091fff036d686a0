"""Chat templates that behave, each in its own peculiar way, as those of well-known models; written for these tests.

Copied are the habits, not the words: where tools stand, what a call looks like, what ends a turn, what is rewritten
once a conversation goes on.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer

from nexus_llm.chat import ChatTokenizer
from tiny_model import TEMPLATE, tiny_tokenizer

# The day is asked for without a check; tools stand before the first question, which is taken out of the loop; one call
# a turn; whoever calls says nothing else; results are written as JSON strings.
LLAMA = """{{- bos_token }}{%- set today = strftime_now('%d %b %Y') %}
{%- if messages[0]['role'] == 'system' %}
    {%- set instructions = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set instructions = '' %}{%- endif %}
{{- '<|head|>system<|/head|>\n\nDate: ' + today + '\n' + instructions + '<|eot|>' }}
{%- if tools is not none %}
    {%- if not messages %}{{- raise_exception('tools need a first question') }}{%- endif %}
    {{- '<|head|>user<|/head|>\n\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) + '\n\n' }}{%- endfor %}
    {{- messages[0]['content'] | trim + '<|eot|>' }}{%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|head|>ipython<|/head|>\n\n' + message.content | tojson + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('only one call at once') }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|head|>assistant<|/head|>\n\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}<|eot|>' }}
    {%- else %}
        {{- '<|head|>' + message.role + '<|/head|>\n\n' + message.content | trim + '<|eot|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\n\n' }}{%- endif %}"""

# ChatML with a system message of its own; calls and results between tags; neighbouring results share a user's turn.
_QWEN = """{%- if tools %}
    {{- '<|im_start|>system\n' + (messages[0].content if messages[0].role == 'system' else 'You help.') }}
    {{- '\n\nTools:' }}{%- for tool in tools %}{{- '\n' + tool | tojson }}{%- endfor %}{{- '<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
BEFORE{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        ASSISTANT
        {%- for call in message.tool_calls or [] %}
            {{- ('\n' if message.content or not loop.first else '') + '<tool_call>\n{"name": "' + call.function.name }}
            {{- '", "arguments": ' + call.function.arguments | tojson + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
_HEADER = "'<|im_start|>assistant\n' + message.content"
QWEN_2 = _QWEN.replace("BEFORE", "").replace("ASSISTANT", f"{{{{- {_HEADER} }}}}")
# Thoughts are written in the last turn only, empty ones too; a first loop looks for the last question.
_LAST_QUESTION = """{%- set found = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and found.last < 0 %}
        {%- set found.last = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
"""
_THOUGHTS = """{%- set thought = message.reasoning_content or '' %}
        {%- if loop.index0 > found.last and (loop.last or thought) %}
            {{- '<|im_start|>assistant\n<think>\n' + thought + '\n</think>\n\n' + message.content }}
        {%- else %}{{- HEADER }}{%- endif %}""".replace("HEADER", _HEADER)
QWEN_3 = _QWEN.replace("BEFORE", _LAST_QUESTION).replace("ASSISTANT", _THOUGHTS)
# Nothing asks for an answer; tools stand before the last question, so each question moves them; ids of nine letters.
MISTRAL = """{%- set questions = messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools is not none and message is sameas questions[-1] %}
            {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}{{- raise_exception('ids have nine characters') }}{%- endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}{{- ', ' if not loop.last else ']' }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif message.role == 'assistant' %}{{- ' ' + message.content + eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | tojson + ', "call_id": "' + message.tool_call_id }}
        {{- '"}[/TOOL_RESULTS]' }}
    {%- else %}{{- raise_exception('only user, assistant and tool') }}
    {%- endif %}
{%- endfor %}"""
# Tools in a system message; the assistant's words are marked for trainers; results in turns of their own.
HERMES = """{%- if tools %}
    {{- '<|im_start|>system\nFunctions: <tools>' }}
    {%- for tool in tools %}{{- tool.function | tojson }}{%- endfor %}{{- '</tools><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>\n' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
            {{- '\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
        {%- endgeneration %}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>tool\n<tool_response>\n' + {'name': message.name, 'content': message.content} | tojson }}
        {{- '\n</tool_response><|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
# A system message of its own, and no place for tools.
SMOLLM = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}" + TEMPLATE

SPECIAL = {"Llama": ["<|begin|>", "<|head|>", "<|/head|>", "<|eot|>"], "Mistral": ["<s>", "</s>", "[INST]", "[/INST]"]}
TEMPLATES = {
    "Llama": LLAMA,
    "Qwen 2": QWEN_2,
    "Qwen 3": QWEN_3,
    "Mistral": MISTRAL,
    "Hermes": HERMES,
    "SmolLM": SMOLLM,
}
TURN_END = {"Llama": "<|eot|>", "Mistral": "</s>"}  # the others': <|im_end|>
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather, é <b>.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


def tokenizer_of(family: str) -> ChatTokenizer:
    """The tiny tokenizer with the family's special tokens, and tags that are tokens but not special."""
    tokenizer = Tokenizer.from_str(json.dumps(tiny_tokenizer()))
    tokenizer.add_special_tokens(SPECIAL.get(family, []))
    tokenizer.add_tokens(
        [AddedToken(tag, special=False, normalized=False) for tag in ("<tool_call>", "</tool_call>", "<think>")]
    )
    config = {"bos_token": SPECIAL.get(family, ["<|im_start|>"])[0], "eos_token": TURN_END.get(family, "<|im_end|>")}
    return ChatTokenizer(tokenizer.to_str(), template=TEMPLATES[family], config=config)
