"""Checkpoints are whole or not there."""

import os
import pickle

import pytest
import torch
from safetensors.torch import load_file

from mmfm.errors import ModelError, OutputError
from mmfm.training import checkpoint


def state(value):
    return {
        "module.weight": torch.full((3, 4), float(value)),
        "module.half": torch.tensor([value], dtype=torch.float16),
        "average.weight": torch.full((3, 4), 2.0 * value),
        "count": torch.tensor(value),
    }


def test_the_newest_is_read(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    for step in (9, 10):
        path = checkpoint.save(tmp_path, step, state(step), {"bad": step})
        assert path == tmp_path / f"step-{step:07d}"
    found = checkpoint.newest(tmp_path)
    assert (found.step, found.notes) == (10, {"bad": 10})
    wanted = state(10)
    assert found.shapes == {name: value.shape for name, value in wanted.items()}
    for name, value in found.read().items():
        assert torch.equal(value, wanted[name]) and value.dtype == wanted[name].dtype
    assert found.read("module.").keys() == {"weight", "half"}


def test_tensors_are_filled_in_place(tmp_path):
    checkpoint.save(tmp_path, 1, state(7))
    into = state(0)
    places = {name: value.data_ptr() for name, value in into.items()}
    checkpoint.newest(tmp_path).load(into)
    for name, value in state(7).items():
        assert torch.equal(into[name], value) and into[name].data_ptr() == places[name]


def test_another_model_is_refused(tmp_path):
    checkpoint.save(tmp_path, 1, state(7))
    found, into = checkpoint.newest(tmp_path), state(0)
    with pytest.raises(ModelError, match=r"the checkpoint has no 'module.bias'"):
        found.load({**into, "module.bias": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"this model has no 'count'"):
        found.load({k: v for k, v in into.items() if k != "count"})
    with pytest.raises(ModelError, match=r"\(3, 4\) there and \(4, 3\) here"):
        found.load({**into, "module.weight": torch.zeros(4, 3)})
    assert all(torch.equal(value, state(0)[name]) for name, value in into.items())
    found.load({k: v for k, v in into.items() if k != "count"}, spare="count")


def test_two_are_kept(tmp_path):
    for step in (1, 2, 3, 20, 100):
        checkpoint.save(tmp_path, step, state(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000020", "step-0000100"]


def test_a_step_saved_again_is_replaced(tmp_path):
    checkpoint.save(tmp_path, 5, state(1))
    checkpoint.save(tmp_path, 5, state(2))
    assert checkpoint.newest(tmp_path).read()["count"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000005"]


def test_what_interrupted_saves_left_is_ignored_and_swept(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    left = [tmp_path / "step-0000002.tmp", tmp_path / "step-0000001.old.tmp"]
    for folder in left:
        folder.mkdir()
        (folder / "__0_0.distcp").write_bytes(b"half")
    assert checkpoint.newest(tmp_path).step == 1
    checkpoint.save(tmp_path, 3, state(2))
    assert checkpoint.newest(tmp_path).step == 3
    assert not any(folder.exists() for folder in left)


FILES = ("__0_0.distcp", ".metadata", "manifest.json")


def cut(share):
    return lambda data: data[: int(len(data) * share)]


def flip(place):
    def flipped(data):
        i = min(int(len(data) * place), len(data) - 1)
        return data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]

    return flipped


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [cut(0), cut(0.01), cut(0.5), cut(0.999), flip(0), flip(0.3), flip(0.6), flip(1), None],
)
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path, name, damage):
    checkpoint.save(tmp_path, 1, state(1))
    path = checkpoint.save(tmp_path, 2, state(2)) / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="step-0000002 is damaged"):
        found = checkpoint.newest(tmp_path)
    assert found.step == 1
    assert found.read()["count"] == 1


def test_when_all_are_damaged_there_is_none(tmp_path):
    path = checkpoint.save(tmp_path, 1, state(1)) / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.newest(tmp_path) is None


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"step 3 cannot be written to .*file"):
        checkpoint.save(tmp_path / "file", 3, state(1))


class Trap:
    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_foreign_checkpoint_cannot_run_code(tmp_path):
    """Its table of contents is a pickle, so only what such a table needs is let in."""
    path = checkpoint.save(tmp_path, 1, state(1))
    trap = Trap()
    trap.path = tmp_path / "sprung"
    body = checkpoint._manifest(path)
    for evil in (pickle.dumps(trap), b"ctorch.distributed.checkpoint.metadata\nos.mkdir\n."):
        (path / ".metadata").write_bytes(evil)
        body["files"][".metadata"] = checkpoint._hash(path / ".metadata")
        told = {"body": body, "sha256": checkpoint._digest(body)}
        (path / "manifest.json").write_text(checkpoint.json.dumps(told))
        with pytest.raises(ModelError, match="no table of tensors needs"):
            checkpoint.newest(tmp_path).read()
    assert not trap.path.exists()


def test_weights_are_exported(tmp_path):
    checkpoint.save(tmp_path / "run", 4, state(4))
    target = checkpoint.export(tmp_path / "run", tmp_path / "out" / "weights.safetensors")
    assert {k: v.tolist() for k, v in load_file(target).items()} == {
        "weight": torch.full((3, 4), 8.0).tolist()
    }
    one = tmp_path / "run" / "step-0000004"
    told = load_file(checkpoint.export(one, tmp_path / "w.safetensors", part="module"))
    assert told["half"].dtype == torch.float16 and told["weight"][0, 0] == 4
    with pytest.raises(ModelError, match="no part 'optimizer'; it has average, module"):
        checkpoint.export(one, tmp_path / "w.safetensors", part="optimizer")
    (one / ".metadata").unlink()
    with pytest.raises(ModelError, match="no whole checkpoint"):
        checkpoint.export(one, tmp_path / "w.safetensors")
