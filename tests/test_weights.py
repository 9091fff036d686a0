"""Safetensors files through numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nexus_llm.errors import ModelError
from nexus_llm.weights import Weights, from_bfloat16, to_bfloat16, weight_files, write_bfloat16

floats = arrays(np.float32, st.integers(1, 50), elements=st.floats(width=32))


@given(floats)
def test_bfloat16_is_rounded_as_torch_rounds_it(values: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), expected)


@given(arrays(np.uint16, 20, elements=st.integers(0, 0x7F7E)))
def test_a_value_half_way_goes_to_the_even_neighbour(bits: np.ndarray) -> None:
    half_way = ((bits.astype(np.uint32) << 16) | 0x8000).view(np.float32)
    np.testing.assert_array_equal(to_bfloat16(half_way), bits + bits % 2)


@given(arrays(np.uint16, 20))
def test_a_bfloat16_value_survives_the_way_through_float32(bits: np.ndarray) -> None:
    values = from_bfloat16(bits)
    again = to_bfloat16(values)
    is_number = ~np.isnan(values)
    np.testing.assert_array_equal(again[is_number], bits[is_number])
    assert np.isnan(from_bfloat16(again)[~is_number]).all()


def test_what_is_written_is_read_by_safetensors_itself(tmp_path: Path) -> None:
    safetensors_torch = pytest.importorskip("safetensors.torch")
    values = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1.5], np.float32)}
    file = tmp_path / "model.safetensors"
    write_bfloat16(file, {name: value.shape for name, value in values.items()}, lambda n: to_bfloat16(values[n]))
    read = safetensors_torch.load_file(file)
    assert {name: tensor.float().tolist() for name, tensor in read.items()} == {
        n: v.tolist() for n, v in values.items()
    }
    mine = Weights.open(file)
    assert mine.names == ["a", "b"]
    np.testing.assert_array_equal(mine.float32("b"), values["b"])


def test_other_float_types_are_read_too(tmp_path: Path) -> None:
    torch, save = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    save.save_file({"half": torch.tensor([0.5]).half(), "full": torch.tensor([[0.25]])}, tmp_path / "m.safetensors")
    read = Weights.open(tmp_path / "m.safetensors")
    assert read.float32("half").tolist() == [0.5]
    assert from_bfloat16(read.bits("full")).tolist() == [[0.25]]


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    write_bfloat16(file, {"x": (4, 4)}, lambda _: np.zeros((4, 4), np.uint16))
    return file


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_truncated_file_is_refused_at_every_length(small_file: Path, keep: int) -> None:
    small_file.write_bytes(small_file.read_bytes()[:keep])
    with pytest.raises(ModelError, match="truncated or not safetensors"):
        Weights.open(small_file)


def test_a_file_with_more_bytes_than_its_header_names_is_refused(small_file: Path) -> None:
    small_file.write_bytes(small_file.read_bytes() + b"x")
    with pytest.raises(ModelError, match="truncated or not safetensors"):
        Weights.open(small_file)


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    torch, save = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    save.save_file({"x": torch.zeros(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="I8 tensors"):
        Weights.open(tmp_path)


def test_a_folder_with_pickles_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(ModelError, match="can run code"):
        weight_files(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights"):
        weight_files(tmp_path)


def test_an_index_joins_several_files_and_names_an_absent_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_bfloat16(tmp_path / f"{name}.safetensors", {name: (1,)}, lambda _: np.zeros(1, np.uint16))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"one": "one.safetensors", "two": "two.safetensors"}}')
    assert Weights.open(tmp_path).names == ["one", "two"]
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names two\.safetensors, which is not there"):
        Weights.open(tmp_path)
    index.write_text("[]")
    with pytest.raises(ModelError, match="not a readable index"):
        Weights.open(tmp_path)
