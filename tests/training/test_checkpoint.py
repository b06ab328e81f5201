"""Checkpoints are whole or not there."""

import pytest
import torch

from mmfm.training import checkpoint


def state(value):
    return {"module": {"weight": torch.full((3,), float(value))}, "note": value}


def test_the_newest_is_loaded(tmp_path):
    assert checkpoint.load_newest(tmp_path) is None
    for step in (9, 10):
        path = checkpoint.save(tmp_path, step, state(step))
        assert path == tmp_path / f"step-{step:07d}"
    step, found = checkpoint.load_newest(tmp_path)
    assert step == 10
    assert torch.equal(found["module"]["weight"], torch.full((3,), 10.0))


def test_two_are_kept(tmp_path):
    for step in (1, 2, 3, 20, 100):
        checkpoint.save(tmp_path, step, state(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000020", "step-0000100"]


def test_a_step_saved_again_is_replaced(tmp_path):
    checkpoint.save(tmp_path, 5, state(1))
    checkpoint.save(tmp_path, 5, state(2))
    assert checkpoint.load_newest(tmp_path)[1]["note"] == 2


def test_what_an_interrupted_save_left_is_ignored(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    left = tmp_path / "step-0000002.tmp"
    left.mkdir()
    (left / "state.pt").write_bytes(b"half")
    assert checkpoint.load_newest(tmp_path)[0] == 1
    checkpoint.save(tmp_path, 2, state(2))
    assert checkpoint.load_newest(tmp_path)[0] == 2
    assert not left.exists()


def cut(path):
    data = (path / "state.pt").read_bytes()
    (path / "state.pt").write_bytes(data[:-7])


def flip(path):
    data = bytearray((path / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "state.pt").write_bytes(data)


def forget(path):
    (path / "manifest.json").unlink()


def scribble(path):
    (path / "manifest.json").write_text("{}")


@pytest.mark.parametrize("damage", [cut, flip, forget, scribble])
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path, damage):
    checkpoint.save(tmp_path, 1, state(1))
    damage(checkpoint.save(tmp_path, 2, state(2)))
    with pytest.warns(UserWarning, match="step-0000002 is damaged"):
        step, found = checkpoint.load_newest(tmp_path)
    assert (step, found["note"]) == (1, 1)


def test_when_all_are_damaged_there_is_none(tmp_path):
    cut(checkpoint.save(tmp_path, 1, state(1)))
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.load_newest(tmp_path) is None
