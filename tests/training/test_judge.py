"""The judge's training: what changes a drawing keeps its name, and a handful is learnt by heart."""

import numpy as np
import pytest
import torch
from torch import nn

from mmfm.data.packed import PackedPictures
from mmfm.errors import DataError
from mmfm.evaluation.judge import JudgeConfig, JudgeNetwork
from mmfm.training.judge import JudgeTask, erased, may_mirror, moved, on_grounds, recoloured, worn

SIZE = 32


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=8):
    """Flat shapes on nothing: picture i has a bar in row 3 i of its own colour."""
    pixels = np.zeros((count, SIZE, SIZE, 4), np.uint8)
    for i in range(count):
        pixels[i, 3 * i : 3 * i + 8, 4:28] = (*np.random.default_rng(i).integers(0, 256, 3), 255)
    meta = [{"concept": f"thing {i}", "category": "food and drink"} for i in range(count)]
    return PackedPictures(pixels, [(m["concept"],) for m in meta], meta)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return JudgeNetwork(JudgeConfig(num_classes=8, widths=(16, 32), depths=(1, 1)))


CLASSES = [f"thing {i}" for i in range(8)]


def test_a_handful_is_learnt_by_heart():
    data = pictures()
    task = JudgeTask(network(), CLASSES, data, data, size=SIZE)
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=5e-3)
    rows, random = np.arange(8), generator()
    before, _ = task.evaluate(task.module)
    task.module.train()
    for _ in range(150):
        loss, parts = task.loss(rows, random)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after, _ = task.evaluate(task.module)
    assert set(parts) == {"right"}
    assert after["held_out"] == 8
    assert before["held_out_top1"] < 0.5 < 0.8 < after["held_out_top1"]


def test_the_same_generator_gives_the_same_pictures():
    task = JudgeTask(network(), CLASSES, pictures(), pictures(), size=SIZE)
    one, same, other = (task.augmented(np.arange(8), generator(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == (8, 3, SIZE, SIZE)
    assert one.min() >= -1
    assert one.max() <= 1


def test_smaller_pictures_are_the_same_ones():
    rgba = torch.rand(6, 4, 64, 64, generator=generator())
    rgba = nn.functional.avg_pool2d(rgba, 9, stride=1, padding=4)  # smooth: sizes can be compared
    mirror = torch.zeros(6, dtype=torch.bool)
    large = nn.functional.interpolate(moved(rgba, mirror, 64, generator()), size=32, mode="area")
    small = moved(rgba, mirror, 32, generator())
    assert (large - small).abs()[:, :, 6:-6, 6:-6].mean() < 0.02


def test_only_what_may_be_mirrored_is():
    left = torch.zeros(400, 4, 16, 16)
    left[..., :4] = 1
    for allowed in (False, True):
        mirror = torch.full((400,), allowed)
        out = moved(left, mirror, 16, generator())[:, 3]
        right_side = (out[..., 8:].sum(dim=(1, 2)) > out[..., :8].sum(dim=(1, 2))).float().mean()
        assert right_side == pytest.approx(0.5 * allowed, abs=0.1)
    assert may_mirror({"category": "animals and nature", "concept": "dog"})
    assert not may_mirror({"category": "flags", "concept": "flag of italy"})
    assert not may_mirror({"category": "smileys and emotion", "concept": "left speech bubble"})
    assert not may_mirror({"category": None, "concept": "dog"})


def test_grounds_do_not_touch_what_is_opaque():
    rgba = torch.rand(64, 4, 8, 8, generator=generator())
    rgba[:, 3] = 1
    torch.testing.assert_close(on_grounds(rgba, generator()), 2 * rgba[:, :3] - 1)
    empty = on_grounds(torch.zeros(400, 4, 8, 8), generator())
    white = (empty == 1).all(dim=(1, 2, 3)).float().mean()
    assert white == pytest.approx(0.5, abs=0.1)


def test_changes_are_mild_and_some_pictures_stay():
    images = torch.rand(60, 3, SIZE, SIZE, generator=generator()) * 1.6 - 0.8
    assert (recoloured(images, generator()) - images).abs().max() < 0.7
    changed = (worn(images, generator()) - images).abs().amax(dim=(1, 2, 3)) > 0
    assert not changed[:10].any()
    assert changed[10:].float().mean() > 0.9
    hit = (erased(images, generator()) != images).any(dim=3).any(dim=2).any(dim=1).float().mean()
    assert 0.05 < hit < 0.5


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_batches_of_any_size_are_worn(count):
    images = torch.zeros(count, 3, SIZE, SIZE)
    assert worn(images, generator()).shape == images.shape


def test_settled_norms_are_those_of_the_weights_there_are():
    data = pictures()
    task = JudgeTask(network(), CLASSES, data, data, size=SIZE)
    task.evaluate(task.module)
    once = {k: v.clone() for k, v in task.module.state_dict().items()}
    task.module.train()
    task.loss(np.arange(8), generator(5))  # moves the statistics
    task.evaluate(task.module)
    for name, value in task.module.state_dict().items():
        torch.testing.assert_close(value, once[name])


def test_a_concept_that_is_no_class_is_refused():
    with pytest.raises(DataError, match="thing 7"):
        JudgeTask(network(), CLASSES[:7], pictures(), pictures())
