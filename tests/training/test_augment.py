"""Jitter: the same shape and range, white stays white, chance only from the generator."""

import torch

from mmfm.training.augment import jitter


def batch():
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_shape_and_range():
    for seed in range(5):
        moved = jitter(batch(), torch.Generator().manual_seed(seed))
        assert moved.shape == (4, 3, 32, 32)
        assert moved.max() <= 1 + 1e-6
        assert moved.min() >= -1.2 - 1e-6  # a contrast of 1.1 around white


def test_white_stays_white():
    white = torch.ones(4, 3, 32, 32)
    assert torch.allclose(jitter(white, torch.Generator().manual_seed(0)), white, atol=1e-6)


def test_it_repeats_with_its_generator():
    first, again, other = (
        jitter(batch(), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pictures_of_a_batch_move_differently():
    same = batch()[:1].expand(4, -1, -1, -1)
    moved = jitter(same, torch.Generator().manual_seed(0))
    assert (moved[0] - moved[1]).abs().max() > 0.1


def test_the_change_is_small_and_never_a_mirror():
    """A black square left of the middle stays left of the middle."""
    images = torch.ones(64, 3, 32, 32)
    images[:, :, 12:20, 4:10] = -1
    dark = (1 - jitter(images, torch.Generator().manual_seed(0))).mean(dim=1)
    columns = (dark.sum(dim=1) * torch.arange(32)).sum(dim=1) / dark.sum(dim=(1, 2))
    rows = (dark.sum(dim=2) * torch.arange(32)).sum(dim=1) / dark.sum(dim=(1, 2))
    assert columns.max() < 13
    assert (rows - 15.5).abs().max() < 5
    assert dark.sum(dim=(1, 2)).min() > 0.5 * (2 * 48)
