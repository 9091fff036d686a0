"""Conversations, token ids and streamed text."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_llm.chat import ChatTokenizer, StreamDecoder, default_template
from nexus_llm.errors import ModelError
from nexus_llm.records import Message
from tiny_model import CONTROL, TEMPLATE, tiny_tokenizer, write_tiny_model

CONFIG = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
TINY = ChatTokenizer(json.dumps(tiny_tokenizer()), template=TEMPLATE, config=CONFIG)
EMOJI = "I 💜 👩🏽‍🚀 and 日本語, naïve café… 🙂"

texts = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.lists(st.sampled_from([*CONTROL, "<|im_", "end|>", " ", "a", "\n", "\U000f0000", "\U000f0001"])).map("".join),
)
messages = st.lists(
    st.builds(lambda role, content: Message(role=role, content=content), st.sampled_from(["system", "user"]), texts),
    min_size=1,
    max_size=4,
)


@given(messages)
def test_user_text_never_becomes_a_control_token(conversation: list[Message]) -> None:
    ids = TINY.encode_prompt(conversation)
    turns = len(conversation)
    assert [ids.count(TINY.control_tokens[token]) for token in CONTROL] == [0, turns + 1, turns]


@given(messages)
def test_a_prompt_holds_every_character_that_was_typed(conversation: list[Message]) -> None:
    expected = TINY.render(conversation, add_generation_prompt=True)
    assert TINY.decode(TINY.encode_prompt(conversation), keep_control_tokens=True) == expected


@given(messages, texts)
def test_the_answer_and_its_end_are_the_assistants_and_nothing_else(conversation: list[Message], answer: str) -> None:
    whole = [*conversation, Message(role="assistant", content=answer), Message(role="user", content="more")]
    encoded = TINY.encode_conversation(whole)
    assert len(encoded.token_ids) == len(encoded.is_assistant)
    own = [token for token, mine in zip(encoded.token_ids, encoded.is_assistant, strict=True) if mine]
    assert own[-1] == TINY.eos_token_id
    # A newline at the answer's start may have merged into the template's own newline.
    assert (answer + "<|im_end|>").endswith(TINY.decode(own, keep_control_tokens=True))
    assert TINY.decode(own[:-1], keep_control_tokens=True).lstrip("\n") == answer.lstrip("\n")


@given(st.text(st.characters(codec="utf-8")))
def test_running_text_comes_back_whole_and_ends_once(text: str) -> None:
    ids = TINY.encode_document(text)
    assert ids[-1] == TINY.document_end_id
    assert TINY.decode(ids[:-1], keep_control_tokens=True) == text
    assert ids.count(TINY.document_end_id) == 1


def test_many_documents_are_encoded_as_each_one_alone() -> None:
    documents = ["one <|im_end|>", "", EMOJI, "x" * 1000]
    assert TINY.encode_documents(documents) == [TINY.encode_document(text) for text in documents]


def test_a_raw_prompt_may_write_control_tokens() -> None:
    assert TINY.encode_text("<|im_start|>user")[0] == TINY.control_tokens["<|im_start|>"]


def test_tool_descriptions_cannot_write_control_tokens_either() -> None:
    template = "{{ tools | tojson }}<|im_end|>"
    tokenizer = ChatTokenizer(json.dumps(tiny_tokenizer()), template=template, config=CONFIG)
    tools = [{"name": "<|im_start|>", "<|im_end|>": {"deep": ["<|im_end|>"]}}]
    ids = tokenizer.encode_prompt([Message(role="user", content="x")], tools=tools)
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.control_tokens["<|im_start|>"] not in ids


def test_threads_that_share_a_tokenizer_do_not_disturb_each_other() -> None:
    attack = [Message(role="user", content="<|im_end|>" * 20)]
    expected = (TINY.encode_prompt(attack), TINY.encode_text("<|im_end|>"), TINY.encode_document("<|im_end|>"))

    def work(_: int) -> tuple[list[int], list[int], list[int]]:
        return TINY.encode_prompt(attack), TINY.encode_text("<|im_end|>"), TINY.encode_document("<|im_end|>")

    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(work, range(400)))


@given(st.text(st.characters(codec="utf-8")), st.integers(1, 7))
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(text: str, step: int) -> None:
    ids = TINY.encode_document(text)[:-1]
    decoder = StreamDecoder(TINY)
    pieces = [decoder.push(ids[start : start + step]) for start in range(0, len(ids), step)]
    assert "".join(pieces) + decoder.flush() == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(0, 319), max_size=60))
def test_any_tokens_stream_to_what_they_decode_to_at_once(ids: list[int]) -> None:
    decoder = StreamDecoder(TINY)
    assert "".join(decoder.push([token]) for token in ids) + decoder.flush() == TINY.decode(ids)


@pytest.mark.parametrize("text", ["a 😀 b", "a 中 b", "é", "😀"])
def test_tokenizers_that_spell_bytes_give_whole_characters(text: str) -> None:
    """As Llama 2's, Mistral's and Gemma's do: each byte of a character that is not whole is one replacement."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", " "]
    spec = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": tokens[number], "special": True, "normalized": False,
             "single_word": False, "lstrip": False, "rstrip": False}
            for number in range(3)
        ],
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": True, "merges": [],
                  "vocab": {token: number for number, token in enumerate(tokens)}},
    }  # fmt: skip
    tokenizer = ChatTokenizer(json.dumps(spec), template=None, config={"eos_token": "</s>"})
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push([token]) for token in tokenizer.encode_bare(text)]
    assert "".join(pieces) + decoder.flush() == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_broken_characters_are_held_back_by_one_only() -> None:
    euro = TINY.encode_document("€")[:-1]
    decoder = StreamDecoder(TINY)
    assert decoder.push(euro[:1]) == ""
    assert decoder.push(euro[:1]) == "\ufffd"  # the first will never be completed; the second still may
    assert decoder.push(euro[1:]) == "€"


def test_nulls_of_openai_clients_do_not_reach_the_template() -> None:
    message: Any = {"role": "assistant", "content": None, "tool_calls": None}
    assert TINY.encode_prompt([message]) == TINY.encode_prompt([Message(role="assistant", content="")])


def test_a_template_that_only_counts_its_turns_in_the_beginning_is_learned_turn_by_turn() -> None:
    template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = ChatTokenizer(json.dumps(tiny_tokenizer()), template=template, config=CONFIG)
    encoded = tokenizer.encode_conversation(
        [Message(role="user", content="a1"), Message(role="assistant", content="b2"), Message(role="user", content="c")]
    )
    mine = [token for token, own in zip(encoded.token_ids, encoded.is_assistant, strict=True) if own]
    assert (tokenizer.decode(encoded.token_ids), tokenizer.decode(mine)) == ("3a1b2c", "b2")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages | map(attribute='content') | sort | join }}{{ messages | length }}",  # no loop says who wrote what
        "{{ messages | length }}{% set all %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}"
        "{{ all | length }}",  # reads what it wrote
        "{{ messages | length }}{% for a in messages %}{{ a.content }}{% endfor %}"
        "{% for a in messages %}{{ a.content }}{% endfor %}",  # each turn twice
    ],
)
def test_a_template_that_rewrites_earlier_turns_is_refused_for_training(template: str) -> None:
    tokenizer = ChatTokenizer(json.dumps(tiny_tokenizer()), template=template, config=CONFIG)
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        tokenizer.encode_conversation([Message(role="user", content="b"), Message(role="assistant", content="a")])


def learned(template: str, *turns: str) -> list[str]:
    """What the assistant's turns are in a template's text; the user speaks first."""
    tokenizer = ChatTokenizer(json.dumps(tiny_tokenizer()), template=template, config=CONFIG)
    roles = ("user", "assistant")
    encoded = tokenizer.encode_conversation(
        [Message(role=roles[place % 2], content=text) for place, text in enumerate(turns)]
    )
    runs = [""]
    for token, own in zip(encoded.token_ids, encoded.is_assistant, strict=True):
        if own:
            runs[-1] += tokenizer.decode([token], keep_control_tokens=True)
        elif runs[-1]:
            runs.append("")
    return [run for run in runs if run]


def test_a_text_that_ends_with_eos_where_it_asks_for_nothing_is_learned_turn_by_turn() -> None:
    """Phi-3's habit."""
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"
    )
    assert learned(template, "q", "One.", "q", "Two.") == ["One.<|im_end|>", "Two.<|im_end|>"]


def test_a_prompt_that_opens_a_thought_which_the_past_does_not_have_is_no_part_of_the_words() -> None:
    """The habit of Qwen3.5 and DeepSeek's R1."""
    template = TEMPLATE.replace("'<|im_start|>assistant\n' }}{% endif", "'<|im_start|>assistant\n<think>\n' }}{% endif")
    assert template != TEMPLATE
    assert learned(template, "q", "One.", "q", "Two.") == ["One.<|im_end|>", "Two.<|im_end|>"]
    with pytest.raises(ModelError, match="rewrites earlier turns"):
        learned(template, "q", "<b>", "q", "Two.")  # the content seems to begin with the thought


def test_a_template_that_leaves_words_out_is_refused() -> None:
    """Templates of models that see pictures want lists of parts, and write nothing of a plain text."""
    template = TEMPLATE.replace("message['content']", "('' if message.role == 'assistant' else message.content)")
    with pytest.raises(ModelError, match=r"leaves out what turn 2 \(assistant\) says"):
        learned(template, "question", "One.")


@pytest.mark.parametrize("template", ["{{ raise_exception('no system role') }}", "{{ messages[9].content + 'x' }}"])
def test_a_conversation_that_the_template_refuses_is_named(template: str) -> None:
    tokenizer = ChatTokenizer(json.dumps(tiny_tokenizer()), template=template, config=CONFIG)
    with pytest.raises(ModelError, match="refuses this conversation"):
        tokenizer.encode_prompt([Message(role="user", content="x")])


def test_a_template_cannot_reach_python() -> None:
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    tokenizer = ChatTokenizer(json.dumps(tiny_tokenizer()), template=template, config=CONFIG)
    with pytest.raises(ModelError):
        tokenizer.encode_prompt([Message(role="user", content="x")])


def test_without_a_template_only_chat_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    (folder / "chat_template.jinja").unlink()
    tokenizer = ChatTokenizer.load(folder)
    assert tokenizer.encode_text("hello")
    with pytest.raises(ModelError, match="no chat template"):
        tokenizer.encode_prompt([Message(role="user", content="x")])


@pytest.mark.parametrize("broken", ["tokenizer.json", "tokenizer_config.json"])
def test_a_folder_without_a_readable_tokenizer_is_named(tmp_path: Path, broken: str) -> None:
    folder = write_tiny_model(tmp_path)
    (folder / broken).write_text("{")
    with pytest.raises(ModelError, match="no readable tokenizer"):
        ChatTokenizer.load(folder)


def test_stored_truncation_does_not_cut_text(tmp_path: Path) -> None:
    content = tiny_tokenizer() | {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    }
    tokenizer = ChatTokenizer(json.dumps(content), template=TEMPLATE, config=CONFIG)
    assert tokenizer.encode_document(EMOJI) == TINY.encode_document(EMOJI)


def test_what_the_tokenizer_puts_before_text_opens_documents_and_raw_prompts() -> None:
    content = tiny_tokenizer() | {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
        }
    }
    tokenizer = ChatTokenizer(json.dumps(content), template=TEMPLATE, config=CONFIG)
    assert tokenizer.document_start_ids == [1]
    assert tokenizer.encode_document("a") == [1, *TINY.encode_document("a")]
    assert tokenizer.encode_text("a") == tokenizer.encode_text("<|im_start|>a")


def test_all_ends_are_stop_tokens() -> None:
    assert TINY.stop_token_ids == [0, 2]


def test_old_configurations_carry_one_or_several_templates() -> None:
    assert default_template({"chat_template": "x"}) == "x"
    several = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    assert default_template({"chat_template": several}) == "d"
    assert default_template({}) is None


@pytest.fixture(scope="module")
def transformers_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(str(write_tiny_model(tmp_path_factory.mktemp("tiny"))))


TEMPLATES = {
    "ours": TEMPLATE,
    "llama 3": (
        "{{- bos_token }}{%- for m in messages %}{%- if loop.first and m.role != 'system' %}{{ '<|im_start|>' }}"
        "{%- endif %}\n    {{- '<|im_start|>' + m['role'] + '\\n\\n' + m['content'] | trim + '<|im_end|>' }}"
        "{%- endfor %}\n{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n\\n' }}{%- endif %}\n"
    ),
    "generation marks and tools": (
        "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% set ns = namespace(count=0) %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}"
        "{% set ns.count = ns.count + 1 %}{% if ns.count > 2 %}{% break %}{% endif %}"
        "{% endfor %}{{ eos_token }}"
    ),
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@given(conversation=messages)
@settings(max_examples=40)
def test_ids_are_those_of_transformers(transformers_tokenizer: Any, template: str, conversation: list[Message]) -> None:
    """The peer removes its own two markers from user text; ours are other characters, so those are left out here."""
    conversation = [
        Message(role=one["role"], content=one["content"].replace("\U000f0000", "").replace("\U000f0001", ""))
        for one in conversation
    ]
    tools = [{"name": "f", "description": "<b> & é <|im_end|>"}] if "tools" in template else None
    tokenizer = ChatTokenizer(json.dumps(tiny_tokenizer()), template=template, config=CONFIG)
    found = transformers_tokenizer.apply_chat_template(
        conversation, chat_template=template, tools=tools, add_generation_prompt=True, sanitize_control_tokens=True
    )
    assert tokenizer.encode_prompt(conversation, tools=tools) == list(found["input_ids"])
