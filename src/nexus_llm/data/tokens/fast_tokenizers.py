"""Running text to token ids, by splintr where it gives exactly the ids of Hugging Face's `tokenizers`.

Hugging Face's library is the reference and the fallback. Others are 3 to 20 times as fast, and none is exact for every
tokenizer: splintr must first repeat the reference's ids on strings that are known to trip tokenizers, and on documents
of the corpus.

Texts with `rare_characters` always go to the reference. There the fast ones were found to differ, by 300,000 random
strings and by every code point up to U+3FFFF in seven surroundings, for SmolLM2, GPT-NeoX, Llama 2 and the patterns of
Llama 3 and Qwen 2: a control character that the vocabulary lacks leaves a gap that splintr does not merge across, and
a combining mark younger than the reference's tables (Unicode 9) is put elsewhere by NFC. No other difference was found
in splintr but for Llama 2's added tokens.

MB of text per CPU second, and MiB of memory that one process pays (4.5 MB of English documentation and web text, first
pass, AMD EPYC, 2026-11, `benchmarks/data_tokens.py`):

                     SmolLM2      GPT-NeoX     Llama 2 (no pre-tokenizer)
tokenizers 0.23      2.6   167    3.3   128    3.8     134
splintr-rs 0.22     59      19   55      24    refused: other ids
"""

from __future__ import annotations

import functools
import itertools
import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from nexus_llm.chat import ChatTokenizer

TokenIds = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]
Texts = Sequence[str] | pl.Series
Encode = Callable[[Texts], tuple[TokenIds, Offsets]]
# The reference keeps about 100 bytes a token until it answers: a batch of 2 MB of text then needs 50 MB.
_REFERENCE_BATCH_CHARACTERS = 2_000_000
# Of each probe document: the self-check of 64 documents then takes the reference under a second.
_PROBE_CHARACTERS = 20_000


@dataclass(frozen=True)
class Encoder:
    """Turns running text into the ids that Hugging Face's library gives, control tokens kept as text."""

    name: str
    """The library: `tokenizers` or `splintr`."""
    encode: Encode
    """Texts → (ids of all texts behind one another, texts + 1 bounds), without `document_start_ids` and
    `document_end_id`. Text i is `ids[offsets[i]:offsets[i + 1]]`."""


def choose(tokenizer: ChatTokenizer, probe_texts: Sequence[str] = ()) -> Encoder:
    """Splintr where its ids equal the reference's on every probe, else the reference itself.

    Probed are `adversarial_texts` and the first 20,000 characters of each of `probe_texts`. Takes about 0.3 s, and a
    second with 64 probe texts of full length.
    """
    exact = reference(tokenizer)
    probes = [*adversarial_texts(tokenizer.tokenizer_json), *(text[:_PROBE_CHARACTERS] for text in probe_texts)]
    try:
        encoder = fast(tokenizer)
        difference = first_difference(probes, encoder.encode(probes), exact.encode(probes))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException:  # noqa: BLE001 - a panic in Rust arrives as a BaseException
        return exact
    return encoder if difference is None else exact


def fast(tokenizer: ChatTokenizer) -> Encoder:
    """Splintr's encoder, unchecked.

    Raises:
        Exception: of the library's own kind, where it is absent or cannot read this tokenizer; a panic in Rust is a
            BaseException.
    """
    return Encoder("splintr", _with_rare_texts_by(reference(tokenizer).encode, _splintr(tokenizer.tokenizer_json)))


def reference(tokenizer: ChatTokenizer) -> Encoder:
    """The encoder that is right by definition: `ChatTokenizer.encode_documents` without what opens and closes."""
    opening = len(tokenizer.document_start_ids)

    def encode(texts: Texts) -> tuple[TokenIds, Offsets]:
        parts = []
        for batch in _batches(texts):
            for one in tokenizer.encode_documents(batch):
                parts.append(np.array(one[opening:-1], np.uint32))
        return _joined(parts), bounds_of([len(part) for part in parts])

    return Encoder("tokenizers", encode)


def first_difference(
    texts: Sequence[str], found: tuple[TokenIds, Offsets], expected: tuple[TokenIds, Offsets]
) -> int | None:
    """Index of the first text whose ids differ between two results of `Encoder.encode`, None where all are equal."""
    for index in range(len(texts)):
        one, other = (ids[bounds[index] : bounds[index + 1]] for ids, bounds in (found, expected))
        if not np.array_equal(one, other):
            return index
    return None


def merged(
    is_second: npt.NDArray[np.bool_], first: tuple[TokenIds, Offsets], second: tuple[TokenIds, Offsets]
) -> tuple[TokenIds, Offsets]:
    """(ids, bounds) of all texts, where `second` has those that `is_second` marks and `first` the others, in order."""
    sizes = np.empty(len(is_second), np.int64)
    sizes[~is_second], sizes[is_second] = np.diff(first[1]), np.diff(second[1])
    from_second = np.repeat(is_second, sizes)
    ids = np.empty(len(from_second), np.uint32)
    ids[~from_second], ids[from_second] = first[0], second[0]
    return ids, bounds_of(sizes)


@functools.cache
def rare_characters() -> npt.NDArray[np.bool_]:
    """Code point → whether texts with it are left to the reference, shape (0x110000,).

    Control characters of ASCII but white space, code points that Unicode has not assigned, all of planes 3 to 13, and
    combining marks that the reference's normalisers do not know. Private use is not rare: old fonts put their bullets
    there.
    """
    table = np.zeros(0x110000, np.bool_)
    table[:0x20] = table[0x7F] = table[0x30000:0xF0000] = True
    table[9:14] = table[0xE0020:0xE0080] = False  # white space; the tags that make flags of regions
    for point in range(0x80, 0x30000):
        character = chr(point)
        category = unicodedata.category(character)
        if category == "Cn":
            table[point] = True
        elif category[0] == "M" and _is_normalised_otherwise(character):
            table[[ord(part) for part in (character, *unicodedata.normalize("NFD", character))]] = True
    return table


def _is_normalised_otherwise(mark: str) -> bool:
    """Whether the reference sorts or takes apart this mark otherwise than Python: its tables are of Unicode 9."""
    from tokenizers.normalizers import NFD

    # U+0334 belongs before all marks but its own kind, U+0345 behind them.
    spelled = (mark, f"a{mark}\u0334", f"a\u0345{mark}")
    return any(NFD().normalize_str(text) != unicodedata.normalize("NFD", text) for text in spelled)


def adversarial_texts(tokenizer_json: str) -> list[str]:
    """Strings on which tokenizers are known to part: about 2,800, 30 kB in all, among them every added token."""
    added = [token["content"] for token in json.loads(tokenizer_json).get("added_tokens", [])][:200]
    around = [
        text for token in added for text in (token, f"a{token}b", f" {token} {token}\n", f"{token[:-1]} {token[1:]}")
    ]
    spaces = [chr(point) for point in _WHITE_SPACE]
    runs = [gap * count for gap in (" ", "\n", "\t", "\r\n", "\u3000", " \n") for count in (1, 2, 3, 4, 7, 15, 16, 64)]
    # Every byte that UTF-8 can have: a vocabulary may lack some.
    letters = [
        f" {chr(point)}'" for point in (*range(1, 0x800), *range(0x800, 0xD800, 0x400), *range(0xE000, 0x30000, 0x400))
    ]
    mixed = [f"{left}{gap}{right}" for gap in (*spaces, *runs) for left, right in (("a", "b"), (".", "1"), ("é", "中"))]
    return [
        "",
        *_TROUBLESOME,
        *_CONTROL_SPELLINGS,
        *around,
        *spaces,
        *runs,
        *mixed,
        "".join(spaces),
        "a".join(spaces),
        *letters,
    ]


# Everything that Unicode, Python or a regular expression engine calls white space, and what looks like it.
_WHITE_SPACE = (
    *range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, 0x180E, *range(0x2000, 0x2010), 0x2028, 0x2029, 0x202F,
    0x205F, 0x2060, 0x3000, 0xFEFF,
)  # fmt: skip
_CONTROL_SPELLINGS = (
    "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n", "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<s>",
    "</s>", "<unk>", "<pad>", "[INST] a [/INST]", "<<SYS>>", "<think>a</think>", "<tool_call>", "<|user|>", "<bos>",
    "<|im_start", "im_end|>", "<|", "|>", "<0x0A>", "▁", "a▁b ▁c", "Ġ", "aĠbĊ", "##ing",
)  # fmt: skip
_TROUBLESOME = (
    "Hello, world!", " leading", "trailing ", "don't I'll WE'RE it's 'S 'tis ’s '''", "a" * 3000, "ab" * 2000,
    "x" * 511 + " " + "y" * 513, "1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F 1e-9", "0" * 300, "²³½Ⅷ٣७௧",
    "CamelCaseWords snake_case_words kebab-case UPPERlower123mixed", "!?.,;:…—–-_=+*&^%$#@~`|\\/<>()[]{}\"'", "!" * 200,
    "naïve café e\u0301 A\u030a \u1100\u1161\u11a8 ﬁ Å \u0344 ǆ ß ẞ İ ı ſ", "a\u0300\u0301\u0302\u0303" * 20,
    "Ω≈ç√∫˜µ≤≥÷",
    "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷 ☺️ 1️⃣ ©️",
    "🤖" * 50, "日本語のテキスト、中文文本。한국어 텍스트", "中" * 500,
    "ไม่มีช่องว่าง ភាសាខ្មែរ",
    "नमस्ते दुनिया क्षत्रिय",
    "مرحبا بالعالم ١٢٣ \u200fשלום\u200e", "Привет, мир", "aбвgдеjз αβγabc中a文b",
    "zero\u200bwidth\u200c\u200djoin\ufeff",
    "\0", "a\0b\0\0c", "\x01\x02\x07\x08\x0e\x1b\x7f\x80\x9f", "\ufffd\ufffe\uffff\U0010ffff\ue000\U000f0000",
    "\U0001d400𝕳𝖊",
    "def f(x):\n    if x:\n\t\treturn  x  # c\n\n\n", "line\r\nline\r\n\r\nend\r", "a\n b\n  c\n   d\n",
    "\n\n\n \n\t\n  x",
    "http://a.b/c?d=e&f=g#h user@example.com C:\\path\\to", "| a | b |\n|---|---|\n| 1 | 2 |", '{"k": [1, 2.5, null]}',
    "AKIA" + "Q7" * 40, "QmFzZTY0" * 60 + "==", "deadbeef" * 64, "the the the the" * 40, " the" * 300,
)  # fmt: skip


def _with_rare_texts_by(exact: Encode, fast: Encode) -> Encode:
    """`fast`, but `exact` for texts with a rare character."""

    def encode(texts: Texts) -> tuple[TokenIds, Offsets]:
        is_rare = _with_rare_characters(texts)
        listed = list(texts)
        if not is_rare.any():
            return fast(listed)
        common = [text for text, one in zip(listed, is_rare, strict=True) if not one]
        return merged(is_rare, fast(common), exact(list(itertools.compress(listed, is_rare))))

    return encode


def _with_rare_characters(texts: Texts) -> npt.NDArray[np.bool_]:
    """Whether each text has one of the `rare_characters`, shape (texts,)."""
    from nexus_llm.characters import buffers
    from nexus_llm.data.tokens.rare_characters import has_marked

    column = texts if isinstance(texts, pl.Series) else pl.Series(texts, dtype=pl.String)
    return has_marked(*buffers(column), rare_characters()) if len(column) else np.empty(0, np.bool_)


def _splintr(tokenizer_json: str) -> Encode:
    """splintr-rs (MIT, github.com/ml-rust/splintr): one text a call, because its batches start a thread per core."""
    import splintr

    backend = splintr.from_json_bytes(_without_control_tokens(tokenizer_json).encode())

    def encode(texts: Texts) -> tuple[TokenIds, Offsets]:
        parts = [backend.encode_flat(text) for text in texts]
        return np.frombuffer(b"".join(parts), "<u4"), bounds_of([len(part) // 4 for part in parts])

    return encode


def _without_control_tokens(tokenizer_json: str) -> str:
    """The tokenizer without its special tokens: text that spells one out then stays text, as in the reference."""
    content: dict[str, Any] = json.loads(tokenizer_json)
    content["added_tokens"] = [token for token in content.get("added_tokens", []) if not token["special"]]
    content["post_processor"] = None  # else splintr opens every Llama 2 text with <s>
    return json.dumps(content, ensure_ascii=False)


def _batches(texts: Texts) -> list[list[str]]:
    """The texts in order, in lists that hold 2 million characters at most or a single text."""
    batches: list[list[str]] = []
    room = 0
    for text in texts:
        if len(text) > room or not batches:
            batches.append([])
            room = _REFERENCE_BATCH_CHARACTERS
        batches[-1].append(text)
        room -= len(text)
    return batches


def bounds_of(sizes: Sequence[int] | npt.NDArray[np.int64]) -> Offsets:
    """0 and the running sums of `sizes`: where each of them begins and the last one ends."""
    bounds = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=bounds[1:])
    return bounds


def _joined(parts: Sequence[TokenIds]) -> TokenIds:
    return np.concatenate(parts) if parts else np.empty(0, np.uint32)
