"""What only a CUDA GPU can show; everything here is skipped without one."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from nexus_llm.train.hf import attention
from nexus_llm.train.hf.learner import TransformersLearner
from nexus_llm.train.hf.load import load
from nexus_llm.train.packing import pack
from tiny_architectures import recipe, tiny
from tiny_training import make_shard

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def packed_rows(max_length=256):
    shard = make_shard([120, 90, 46, 200, 56])
    packed = pack([shard], max_length=max_length, objective="continued-pretraining")
    return packed.take(np.arange(packed.rows))


def learner_of(folder, device, **changes):
    return TransformersLearner(load(folder, recipe(max_length=256, **changes), seed=1, base="x", device=device))


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "gpt2"])
def test_every_attention_of_a_gpu_gives_the_loss_of_a_cpu(tmp_path, kind):
    """Each kind that passes the probe, in bfloat16, within 2 % of float32 on a CPU."""
    tiny(tmp_path, kind)
    expected = learner_of(tmp_path, "cpu").loss(packed_rows())
    learner = learner_of(tmp_path, "cuda", dtype="bfloat16")
    assert learner.loss(packed_rows()) == pytest.approx(expected, rel=0.02)
    model = learner.packed.model
    settings = {"device": "cuda", "dtype": torch.bfloat16}
    for candidate in attention._candidates(model.config, **settings, max_length=256):
        try:
            model.set_attn_implementation(candidate.implementation)
            fault = attention._fault(model, candidate, **settings)
        except attention._REFUSALS:
            continue
        if fault is None:
            learner.packed.attention = candidate
            assert learner.loss(packed_rows()) == pytest.approx(expected, rel=0.02), candidate


@pytest.mark.parametrize("method", ["lora", "dora", "full", "qlora"])
def test_steps_on_a_gpu_lower_the_loss(tmp_path, method):
    if method == "qlora" and find_spec("bitsandbytes") is None:
        pytest.skip("needs bitsandbytes")
    tiny(tmp_path, "llama", intermediate_size=128)  # whole blocks of 64 weights
    learner = learner_of(tmp_path, "cuda", method=method, dtype="bfloat16", gradient_checkpointing=True)
    batch, losses = packed_rows(), []
    for step in range(10):
        losses.append(learner.gradients(batch, learned_tokens=batch.learned_tokens))
        learner.update(step, learning_rate=1e-2, max_grad_norm=1.0)
    assert losses[-1] < 0.8 * losses[0]


def test_memory_grows_with_the_tokens_and_not_with_their_square(tmp_path):
    tiny(tmp_path, "llama", max_position_embeddings=65_536)
    peaks = []
    for length in (16_384, 65_536):
        settings = recipe(method="lora", dtype="bfloat16", max_length=length, gradient_checkpointing=True)
        learner = TransformersLearner(load(tmp_path, settings, seed=1, base="x", device="cuda"))
        batch = pack([make_shard([length])], max_length=length, objective="continued-pretraining").take(np.array([0]))
        learner.gradients(batch, learned_tokens=length)
        learner.forget_gradients()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        learner.gradients(batch, learned_tokens=length)
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del learner
    assert peaks[1] < 6 * peaks[0]
