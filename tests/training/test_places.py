"""Words of scenes and where their things stand: targets are the relation's, and are learned."""

import numpy as np
import pytest
import torch

from mmfm.data.packed import PackedPictures
from mmfm.data.scenes import PAIRS, compose
from mmfm.decoder.flow import FIRST_TIMES, Times, sample_times
from mmfm.errors import InputError
from mmfm.training.flow import FlowTask
from mmfm.training.places import Places, find
from tests.training.tiny_flow import tiny_flow

NAMES = ["cat", "black cat", "red apple", "dog"]


@pytest.fixture
def parts():
    """(decoder, places): sixteen scenes of 32 px, every relation of four pairs."""
    drawings = np.zeros((2, 32, 32, 4), np.uint8)
    drawings[:, 8:24, 8:24] = (200, 30, 30, 255)
    chance = np.random.default_rng(0)
    pairs = [NAMES[:2], NAMES[1::-1], NAMES[2:], NAMES[:1] + NAMES[3:]]
    scenes = [compose(list(drawings), pair, way, chance) for pair in pairs for way in PAIRS]
    pixels = np.stack([np.dstack([s.rgb, np.full((32, 32), 255, np.uint8)]) for s in scenes])
    pictures = PackedPictures(pixels, [s.captions for s in scenes], [s.meta() for s in scenes])
    backbone, decoder, data = tiny_flow(pictures, "grid")
    return decoder, Places(backbone, data)


def test_every_token_of_a_name_has_the_place_of_its_thing(parts):
    _, places = parts
    data = places.data
    encode = data.text_rows
    row = encode["a black cat left of a cat"]
    [place] = (places.rows == row).nonzero()[:, 0].tolist()
    named = ~places.places[place, :, 0].isnan()
    # start, a, black, cat, left, of, a, cat, end
    assert named[:9].tolist() == [False, False, True, True, False, False, False, True, False]
    left, right = (torch.tensor(at) for at in PAIRS["left of"])
    assert torch.equal(places.places[place, 3], left)
    assert torch.equal(places.places[place, 7], right)


def test_the_reader_learns_places(parts):
    decoder, places = parts
    reader, chance = decoder.network.conditioner.reader, torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
    first = places.loss(reader, chance).item()
    for _ in range(60):
        loss = places.loss(reader, chance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * min(first, 0.058)  # 0.058 / 2 is what the mean place gives


def test_it_is_added_to_the_flow_loss(parts):
    decoder, places = parts
    reader, rows = decoder.network.conditioner.reader, np.arange(16)
    task = FlowTask(decoder, places.data, places.data, beside=lambda g: places.loss(reader, g))
    loss, told = task.loss(rows, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx((told["flow"] + told["beside"]).item())
    loss.backward()
    assert reader.places.weight.grad.abs().max() > 0


def test_find_looks_from_where_it_is_told():
    assert find([2, 3], [1, 2, 3, 2, 3]) == 1
    assert find([2, 3], [1, 2, 3, 2, 3], 2) == 3
    with pytest.raises(ValueError, match="is not in"):
        find([3, 2, 1], [1, 2, 3])


def test_first_times_have_their_share():
    plain, first = (
        sample_times(20_000, 3.0, torch.Generator().manual_seed(0), Times(start=share))
        for share in (0.0, 0.3)
    )
    early = (first < FIRST_TIMES).float().mean() - 0.7 * (plain < FIRST_TIMES).float().mean()
    assert early.item() == pytest.approx(0.3, abs=0.02)
    others = torch.isin(first, plain)
    assert others.float().mean().item() == pytest.approx(0.7, abs=0.02)
    with pytest.raises(InputError, match="share of first times"):
        Times(start=1.5)
