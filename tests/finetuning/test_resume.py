"""A run that was broken off goes on, and ends as if it had not been."""

import pytest
from safetensors.torch import load_file

import mmfm
from mmfm.finetuning.watch import Unfinished
from tests.finetuning.conftest import QUICK


def weights(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {f"{path.name}:{name}": value for name, value in load_file(path).items()}
    return found


def stopping_after(calls):
    """A stop() that says yes from the given call on."""
    made = 0

    def stop():
        nonlocal made
        made += 1
        return made > calls

    return stop


@pytest.mark.parametrize(
    ("heads", "calls"),
    [(("contrastive", "caption"), 3), (("contrastive", "caption"), 12), (("decoder",), 3)],
)  # in the towers, in the captions that follow, in the flow
def test_resumed_equals_uninterrupted(heads, calls, grid_bundle, folder, known, tmp_path):
    how = {"images": folder, "original": known, "train": "all", "heads": heads, **QUICK}
    how["steps"] = 6
    mmfm.finetune(str(grid_bundle), output=tmp_path / "whole", **how)
    with pytest.raises(Unfinished):
        mmfm.finetune(str(grid_bundle), output=tmp_path / "cut", stop=stopping_after(calls), **how)
    assert (tmp_path / "cut.run").is_dir() and not (tmp_path / "cut").exists()
    mmfm.finetune(str(grid_bundle), output=tmp_path / "cut", **how)
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_other_pictures_are_not_gone_on_with(grid_bundle, folder, tmp_path):
    how = {"output": tmp_path / "new", "heads": ("contrastive",), "train": "all", **QUICK}
    with pytest.raises(Unfinished):
        mmfm.finetune(str(grid_bundle), images=folder, stop=stopping_after(2), **how)
    for name in ("00", "01", "02"):
        (folder / f"{name}.png").unlink()
    with pytest.raises(mmfm.InputError, match="data is not what it was"):
        mmfm.finetune(str(grid_bundle), images=folder, **how)
