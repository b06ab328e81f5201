"""Our reader of safetensors gives the numbers that the format's own reader gives."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mmfm.encoders.tensors import TensorFile
from mmfm.errors import ModelError

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8)


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    tensors = {str(kind): (9 * torch.randn(3, 5)).to(kind) for kind in TYPES}
    tensors |= {"one": torch.tensor(2.5), "none": torch.zeros(0, 4), "flag": torch.tensor([True])}
    save_file(tensors, tmp_path / "some.safetensors", metadata={"format": "pt"})
    return tmp_path / "some.safetensors"


def test_every_type_is_read_as_float32(path):
    wanted, found = load_file(path), TensorFile(path)
    assert found.names() == sorted(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == np.float32
        assert found.shape(name) == tuple(value.shape)
        np.testing.assert_array_equal(found[name], value.float().numpy())
    assert found.shape("absent") is None


def test_rows_are_those_of_the_whole(path):
    found = TensorFile(path)
    for kind in TYPES:
        np.testing.assert_array_equal(found.rows(str(kind), [2, 0, 2]), found[str(kind)][[2, 0, 2]])


def test_float32_is_not_copied(path):
    array = TensorFile(path)["torch.float32"]
    assert not array.flags.owndata and not array.flags.writeable


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_told_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}, path)
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        broken = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    path.write_bytes(broken)
    try:
        found = TensorFile(path)
        for name in found.names():
            assert found[name].shape == found.shape(name)
    except ModelError as told:
        assert "copy the model again" in str(told)


@pytest.mark.parametrize(
    "told", [{"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}, {"shape": [2]}, [], 3]
)
def test_a_header_that_makes_no_sense_is_told(tmp_path, told):
    header = json.dumps({"a": told}).encode()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(ModelError, match="copy the model again"):
        TensorFile(tmp_path / "x")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        TensorFile(tmp_path / "x.safetensors")
