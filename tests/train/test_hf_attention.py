"""Documents of a packed row know nothing of one another, in every architecture that we let through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nexus_llm.errors import ModelError
from nexus_llm.train.hf import attention, build
from nexus_llm.train.hf.attention import Attention, boundaries
from nexus_llm.train.packing import NOT_LEARNED, Batch, pack
from tiny_architectures import KINDS, recipe, tiny
from tiny_training import make_shard

LENGTHS = [10, 9, 11]


def plain_losses(model, shard):
    """Summed loss of each document by plain transformers, alone."""
    model.eval()
    with torch.no_grad():
        for start, stop in zip(shard.offsets[:-1], shard.offsets[1:], strict=True):
            ids = torch.from_numpy(shard.tokens[start:stop].astype(np.int64))[None]
            logits = model(ids).logits[0, :-1].float()
            yield float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))


def only(batch, document):
    """The batch with labels of one document alone."""
    labels = np.where(batch.documents == document, batch.labels, NOT_LEARNED)
    return Batch(batch.token_ids, labels, batch.positions, batch.documents)


@pytest.mark.parametrize("kind", KINDS)
def test_a_documents_loss_is_the_same_alone_and_packed(tmp_path, kind):
    """Within 1e-4 of plain transformers, whose documents stand alone: float32 sums in another order."""
    model = tiny(tmp_path, kind)
    shard = make_shard(LENGTHS)
    packed = pack([shard], max_length=32, objective="continued-pretraining")
    assert packed.rows == 1
    batch = packed.take(np.array([0]))
    learner = build(tmp_path, recipe(), seed=1, base="tiny")
    together = sorted(learner.loss(only(batch, document)) for document in range(3))
    assert together == pytest.approx(sorted(plain_losses(model, shard)), rel=1e-4)


def test_what_stands_in_other_documents_of_the_row_changes_nothing(tmp_path):
    tiny(tmp_path, "mistral")
    learner = build(tmp_path, recipe(), seed=1, base="tiny")
    batch = pack([make_shard([12, 11])], max_length=32, objective="continued-pretraining").take(np.array([0]))
    with torch.no_grad():
        before = learner.hidden(batch)[12:23]
        batch.token_ids[0, :12] = 7
        assert torch.equal(before, learner.hidden(batch)[12:23])


def test_the_probe_sees_positions_that_do_not_start_again(tmp_path, monkeypatch):
    tiny(tmp_path, "gpt2")
    honest = Attention.inputs

    def counting_on(self, batch, **where):
        found = honest(self, batch, **where)
        return found | {"position_ids": torch.arange(batch.token_ids.shape[1])[None]}

    monkeypatch.setattr(Attention, "inputs", counting_on)
    with pytest.raises(ModelError, match=r"sees the one before|positions depend"):
        build(tmp_path, recipe(), seed=1, base="tiny")


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_model_that_mixes_documents_is_refused_with_the_reason(tmp_path, kind):
    tiny(tmp_path, kind)
    with pytest.raises(
        ModelError, match=f"'{kind}' does not keep apart .* a document sees the one before it"
    ) as refused:
        build(tmp_path, recipe(), seed=1, base="tiny")
    assert "llama" in refused.value.fix


def test_a_mask_of_ours_is_not_offered_where_it_would_replace_a_sliding_window(tmp_path):
    config = tiny(tmp_path, "mistral").config
    settings = {"device": "cpu", "dtype": torch.float32}
    long = [found.told for found in attention._candidates(config, **settings, max_length=7)]
    short = [found.told for found in attention._candidates(config, **settings, max_length=6)]
    assert "mask" in short
    assert "mask" not in long


def test_a_gpu_never_gets_a_square_mask_for_a_long_row(tmp_path):
    config = tiny(tmp_path, "llama").config
    found = attention._candidates(config, device="cuda", dtype=torch.bfloat16, max_length=131_072)
    assert {one.implementation for one in found} <= {"flash_attention_2", "torch_varlen", "flex_attention"}


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_rows_laid_end_to_end_with_their_boundaries_give_the_same(tmp_path, monkeypatch, kind):
    """torch's variable-length kernel wants a GPU; what surrounds it is compared here, a plain loop in its place."""
    tiny(tmp_path, kind)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", looped_attention)
    learner = build(tmp_path, recipe(), seed=1, base="tiny")
    batch = pack([make_shard([20, 9, 11, 25])], max_length=32, objective="continued-pretraining").take(np.arange(3))
    expected = learner.loss(batch)
    attention._register_torch_varlen()
    learner.packed.model.set_attn_implementation(attention.TORCH_VARLEN)
    learner.packed.attention = Attention(attention.TORCH_VARLEN, "boundaries")
    assert learner.loss(batch) == pytest.approx(expected, rel=1e-5)


def looped_attention(query, key, value, starts, _starts, longest, _longest, *, scale, window_size, enable_gqa):
    """The kernel's contract (tokens, heads, channels), one document at a time."""
    parts = []
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        assert stop - start <= longest
        place = torch.arange(stop - start)
        distance = place[:, None] - place[None]
        seen = (distance >= 0) & ((distance <= window_size[0]) if window_size[0] >= 0 else True)
        one = [tensor[start:stop].transpose(0, 1)[None] for tensor in (query, key, value)]
        found = torch.nn.functional.scaled_dot_product_attention(
            *one, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
        )
        parts.append(found[0].transpose(0, 1))
    return torch.cat(parts)


def test_boundaries_also_lie_between_rows_whose_numbers_are_equal():
    assert boundaries(np.array([[0, 0], [0, 0]])).tolist() == [0, 2, 4]
