"""A linear head survives the disk, blends from one end to the other, and can be calibrated."""

import numpy as np
import pytest

from mmfm.classify import LinearHead, expected_calibration_error, fit_linear_probe
from mmfm.classify.head import numbers
from mmfm.errors import DataError, InputError, OutputError


@pytest.fixture
def head(kinds):
    vectors, names = kinds(10, noise=1.0)
    return fit_linear_probe(vectors, names, decays=[0.1], space="abc")


def test_a_head_is_the_same_after_a_trip_to_the_disk(head, kinds, tmp_path):
    path = head.save(tmp_path / "head.safetensors")
    back = LinearHead.load(path)
    vectors, _ = kinds(5)
    assert np.array_equal(back(vectors), head(vectors))
    assert (back.labels, back.loss, back.space, back.notes) == (
        head.labels, head.loss, "abc", head.notes,
    )  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ["head.safetensors"]


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_what_is_no_head_is_refused(head, tmp_path, damage):
    path = tmp_path / "head.safetensors"
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(DataError, match=r"head\.safetensors"):
        LinearHead.load(path)
    whole = head.save(path).read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"head\.safetensors"):
        LinearHead.load(path)
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros(1)}, path)
    with pytest.raises(DataError, match="is not a head"):
        LinearHead.load(path)
    with pytest.raises(OutputError):
        head.save(tmp_path / "missing" / "head.safetensors")


def test_a_blend_goes_from_one_head_to_the_other(head, kinds):
    vectors, names = kinds(10, seed=7, noise=2.0)
    other = fit_linear_probe(vectors, names, decays=[1.0])
    assert np.array_equal(head.blended(other, 0.0).weight, head.weight)
    assert np.array_equal(head.blended(other, 1.0)(vectors), other(vectors))
    middle = head.blended(other, 0.5)
    assert np.allclose(middle.logits(vectors), (head.logits(vectors) + other.logits(vectors)) / 2,
                       atol=1e-5)  # fmt: skip
    with pytest.raises(InputError, match="0 to 1"):
        head.blended(other, 1.5)
    with pytest.raises(InputError, match="same labels"):
        head.blended(LinearHead(("x",), np.zeros((1, 16)), np.zeros(1)), 0.5)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_calibrating_keeps_every_answer_and_mends_the_chances(kinds, loss):
    vectors, names = kinds(200, noise=4.0)
    centres = {name: vectors[np.array(names) == name].mean(axis=0) for name in set(names)}
    labels = tuple(sorted(centres))
    weight = 50 * np.stack([centres[label] for label in labels])
    boastful = LinearHead(labels, weight, np.zeros(3, np.float32), loss)
    fit, told = kinds(200, seed=1, noise=4.0)
    fresh, wanted = kinds(400, seed=2, noise=4.0)
    modest = boastful.calibrated(fit, told)
    assert modest.predict(fresh) == boastful.predict(fresh)
    targets = numbers(wanted, labels)
    before = expected_calibration_error(boastful(fresh), targets)
    after = expected_calibration_error(modest(fresh), targets)
    assert after < before / 3
    assert modest.notes["calibration"]["temperature"] > 1
    with pytest.raises(InputError, match="'lamp'"):
        boastful.calibrated(fit[:1], ["lamp"])


def test_shapes_that_do_not_fit_are_refused(head):
    zeros = np.zeros(2, np.float32)
    for labels, weight, bias, loss in (
        (("a", "b"), np.zeros((3, 4)), zeros, "softmax"),
        (("a", "a"), np.zeros((2, 4)), zeros, "softmax"),
        (("a", "b"), np.zeros((2, 4)), zeros, "hinge"),
        (("a", "b"), np.zeros((2, 4)), np.zeros(3), "softmax"),
    ):
        with pytest.raises(InputError):
            LinearHead(labels, weight, bias, loss)
    with pytest.raises(InputError, match=r"\(N, 16\)"):
        head(np.zeros((2, 5)))
    with pytest.raises(InputError, match="NaN"):
        head(np.full((1, 16), np.nan))
