"""fastText's prediction in compiled code: words and n-grams of a text, their mean vector, the best label."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from nexus_llm.data.judging.fasttext_model import ModelArrays

_FNV_OFFSET = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)
_SIGN_BITS = np.uint32(0xFFFFFF00)
_WORD_BEGIN, _WORD_END = np.uint8(ord("<")), np.uint8(ord(">"))
_END_OF_LINE = np.frombuffer(b"</s>", np.uint8)
_LABEL_PREFIX = np.frombuffer(b"__label__", np.uint8)

# Most words of a block repeat: remembering a word's summed vector spares its n-grams. A word of 32 bytes or more, or a
# sentence without spaces, is computed each time. The sum is the same either way, so that no answer depends on its
# neighbours.
REMEMBERED_WORDS, REMEMBERED_BYTES = 8_192, 32


@njit(cache=True, nogil=True)
def predict(
    data: Any, offsets: Any, minimum_characters: int, read_characters: int, model: ModelArrays
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """(label number or -1, probability) of each text."""
    texts = len(offsets) - 1
    numbers = np.full(texts, -1, np.int16)
    scores = np.zeros(texts, np.float32)
    dimensions = model.output.shape[1]
    # A character has 4 bytes at most, and a word has two bounds.
    token = np.empty(4 * read_characters + 2, np.uint8)
    hidden = np.empty(dimensions, np.float32)
    vector = np.empty(dimensions, np.float32)
    memory_words = np.zeros((REMEMBERED_WORDS, REMEMBERED_BYTES), np.uint8)
    memory_counts = np.zeros(REMEMBERED_WORDS, np.int32)
    memory_vectors = np.zeros((REMEMBERED_WORDS, dimensions), np.float32)
    for text in range(texts):
        begin, end = offsets[text], offsets[text + 1]
        if end - begin < minimum_characters:  # there are never more characters than bytes
            continue
        stop, characters = _end_of_reading(data, begin, end, max(read_characters, minimum_characters), read_characters)
        if characters < minimum_characters:
            continue
        hidden[:] = 0
        count = 0
        if model.end_row >= 0:
            _add(hidden, model.rows[model.end_row])
            count += 1
        place = begin
        while place < stop:
            length, place = _next_word(data, place, stop, token)
            if length == 0 or _is_control_word(token, length):
                continue
            value = _hash(token, length)
            slot = np.int64(value) % REMEMBERED_WORDS
            if _is_remembered(token, length, memory_words[slot]):
                _add(hidden, memory_vectors[slot])
                count += memory_counts[slot]
                continue
            vector[:] = 0
            added = _add_word(token, length, value, model, vector)
            added += _add_ngrams(token, length + 2, model, vector)
            _add(hidden, vector)
            count += added
            if length < REMEMBERED_BYTES:
                memory_words[slot, 0] = length
                memory_words[slot, 1 : length + 1] = token[1 : length + 1]
                memory_counts[slot] = added
                memory_vectors[slot] = vector
        if count > 0:
            for column in range(dimensions):
                hidden[column] *= np.float32(1.0) / np.float32(count)
            numbers[text], scores[text] = _best_label(hidden, model)
    return numbers, scores


@njit(cache=True, nogil=True)
def _add(total: Any, vector: Any) -> None:
    for column in range(len(total)):
        total[column] += vector[column]


@njit(cache=True, nogil=True, inline="always")
def _add_row(total: Any, rows: Any, row: int) -> None:
    """`_add` without an array made for the row; 16 columns, as most models have, are one vector instruction."""
    if len(total) == 16:
        for column in range(16):
            total[column] += rows[row, column]
    else:
        for column in range(len(total)):
            total[column] += rows[row, column]


@njit(cache=True, nogil=True)
def _next_word(data: Any, place: int, stop: int, token: Any) -> tuple[int, int]:
    """(bytes of the next word, now `token[1:length + 1]` between its bounds; the place behind it)."""
    while place < stop and _is_space(data[place]):
        place += 1
    length = 0
    while place < stop and not _is_space(data[place]):
        length += 1
        token[length] = data[place]
        place += 1
    token[0] = _WORD_BEGIN
    token[length + 1] = _WORD_END
    return length, place


@njit(cache=True, nogil=True)
def _is_remembered(token: Any, length: int, slot: Any) -> bool:
    if slot[0] != length:  # which also holds for words too long to be remembered
        return False
    index = 1
    while index <= length and slot[index] == token[index]:
        index += 1
    return index > length


@njit(cache=True, nogil=True)
def _end_of_reading(data: Any, begin: int, end: int, count_to: int, read_to: int) -> Any:
    """(place behind character number `read_to` or the end, characters counted until there were `count_to`)."""
    characters = 0
    stop = end
    for place in range(begin, end):
        if data[place] & 0xC0 != 0x80:
            if characters == read_to:
                stop = place
            if characters == count_to:
                break
            characters += 1
    return stop, characters


@njit(cache=True, nogil=True)
def _is_space(byte: int) -> bool:
    """What ends a word in fastText's `Dictionary::readWord`: space, \\t \\n \\v \\f \\r and NUL."""
    return byte == 32 or 9 <= byte <= 13 or byte == 0


@njit(cache=True, nogil=True)
def _is_control_word(token: Any, length: int) -> bool:
    """Whether the word is `</s>` or begins with `__label__`, which fastText takes for a label and does not read."""
    if length == len(_END_OF_LINE):
        return bool(np.all(token[1 : length + 1] == _END_OF_LINE))
    return length >= len(_LABEL_PREFIX) and bool(np.all(token[1 : len(_LABEL_PREFIX) + 1] == _LABEL_PREFIX))


@njit(cache=True, nogil=True)
def _hash_step(value: Any, byte: Any) -> Any:
    """FNV-1a with fastText's signed bytes."""
    step = np.uint32(byte)
    if step >= np.uint32(0x80):
        step |= _SIGN_BITS
    return np.uint32((value ^ step) * _FNV_PRIME)


@njit(cache=True, nogil=True)
def _hash(token: Any, length: int) -> Any:
    value = _FNV_OFFSET
    for index in range(1, length + 1):
        value = _hash_step(value, token[index])
    return value


@njit(cache=True, nogil=True)
def _add_word(token: Any, length: int, value: Any, model: ModelArrays, vector: Any) -> int:
    """Adds the word's own row, if the model has one; how many rows it added."""
    mask = len(model.word_slots) - 1
    slot = np.int64(value) & mask
    while model.word_slots[slot] >= 0:
        word = model.word_slots[slot]
        begin = model.word_bounds[word]
        if model.word_bounds[word + 1] - begin == length:
            index = 0
            while index < length and model.word_bytes[begin + index] == token[index + 1]:
                index += 1
            if index == length:
                _add(vector, model.rows[word])
                return 1
        slot = (slot + 1) & mask
    return 0


@njit(cache=True, nogil=True)
def _add_ngrams(token: Any, length: int, model: ModelArrays, vector: Any) -> int:
    """Adds the rows of all n-grams of the bounded word, of which the two bounds alone are none; how many it added."""
    rows, bucket_rows, kept_buckets = model.rows, model.bucket_rows, model.kept_buckets
    buckets = np.int64(len(bucket_rows))
    share = 1.0 / buckets
    added = 0
    for first in range(length):
        if token[first] & 0xC0 == 0x80:
            continue
        value = _FNV_OFFSET
        place = first
        size = 1
        while place < length and size <= model.longest_ngram:
            value = _hash_step(value, token[place])
            place += 1
            while place < length and token[place] & 0xC0 == 0x80:
                value = _hash_step(value, token[place])
                place += 1
            if size >= model.shortest_ngram and not (size == 1 and (first == 0 or place == length)):
                # value % buckets by a product: a division takes several times as long. The quotient is rarely one too
                # small, where buckets divide the value, and never too large: 1 / buckets is far above 2**-53.
                rest = np.int64(value) - np.int64(value * share) * buckets
                if rest >= buckets:
                    rest -= buckets
                if (kept_buckets[rest >> 6] >> np.uint64(rest & 63)) & np.uint64(1):
                    _add_row(vector, rows, bucket_rows[rest])
                    added += 1
            size += 1
    return added


@njit(cache=True, nogil=True)
def _best_label(hidden: Any, model: ModelArrays) -> tuple[int, float]:
    """(number, probability) of the best label: down the tree if there is one, else by a flat softmax."""
    output, left, right = model.output, model.left, model.right
    label_count = (len(left) + 1) // 2 if len(left) else len(output)
    if len(left) == 0:
        best, best_value, total = 0, -np.inf, 0.0
        values = np.empty(label_count, np.float64)
        for label in range(label_count):
            values[label] = _dot(hidden, output[label])
            if values[label] > best_value:
                best, best_value = label, values[label]
        for label in range(label_count):
            total += np.exp(values[label] - best_value)
        return best, 1.0 / total
    nodes = np.empty(len(left) + 1, np.int64)
    logs = np.empty(len(left) + 1, np.float64)
    nodes[0], logs[0] = len(left) - 1, 0.0
    depth = 1
    best, best_log = -1, -np.inf
    while depth > 0:
        depth -= 1
        node, log = nodes[depth], logs[depth]
        if log < best_log:
            continue
        if left[node] < 0:
            best, best_log = node, log
            continue
        share = 1.0 / (1.0 + np.exp(-_dot(hidden, output[node - label_count])))
        # 1e-5 as fastText's `std_log`. The likelier side goes on top, so that the other is mostly never walked.
        to_left, to_right = log + np.log(1.0 - share + 1e-5), log + np.log(share + 1e-5)
        nodes[depth], logs[depth] = left[node], to_left
        nodes[depth + 1], logs[depth + 1] = right[node], to_right
        if share < 0.5:
            nodes[depth], logs[depth] = right[node], to_right
            nodes[depth + 1], logs[depth + 1] = left[node], to_left
        depth += 2
    return best, min(np.exp(best_log), 1.0)


@njit(cache=True, nogil=True)
def _dot(hidden: Any, row: Any) -> float:
    total = 0.0
    for column in range(len(hidden)):
        total += hidden[column] * row[column]
    return total
