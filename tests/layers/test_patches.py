"""Folding and unfolding are exact inverses, and put every pixel where they say."""

import pytest
import torch

from mmfm.layers.patches import map_to_tokens, patchify, tokens_to_map, unpatchify


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_unpatchify_undoes_patchify(patch_size):
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, patch_size)
    assert patches.shape == (2, 3 * patch_size**2, 8 // patch_size, 12 // patch_size)
    assert torch.equal(unpatchify(patches, patch_size), images)


def test_a_patch_holds_its_own_pixels():
    images = torch.arange(36.0).reshape(1, 1, 6, 6)
    patches = patchify(images, 3)
    assert torch.equal(patches[0, :, 1, 0], images[0, 0, 3:, :3].flatten())


def test_tokens_run_in_row_order():
    x = torch.randn(2, 5, 3, 3)
    tokens = map_to_tokens(x)
    assert torch.equal(tokens[:, 5], x[:, :, 1, 2])
    assert torch.equal(tokens_to_map(tokens), x)


def test_a_grid_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="12 tokens"):
        tokens_to_map(torch.zeros(1, 12, 4))
