"""Sine-cosine embeddings: bounded, different for every place, near for near places."""

import torch

from mmfm.layers.positions import embed_time, sincos_1d, sincos_2d


def test_position_zero_is_cosine_one_and_sine_zero():
    row = sincos_1d(torch.tensor([0.0]), 8)[0]
    assert torch.equal(row, torch.tensor([1.0] * 4 + [0.0] * 4))


def test_every_row_has_the_same_length():
    rows = sincos_1d(torch.arange(50), 16)
    assert torch.allclose(rows.square().sum(dim=1), torch.tensor(8.0))


def test_products_depend_on_the_distance_alone():
    rows = sincos_1d(torch.arange(20), 32).double()
    products = rows @ rows.T
    for distance in (1, 3, 7):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4)


def test_a_grid_is_rows_then_columns():
    grid = sincos_2d(5, 16).unflatten(0, (5, 5))
    axis = sincos_1d(torch.arange(5), 8)
    assert torch.equal(grid[3, 1], torch.cat([axis[3], axis[1]]))
    flat = sincos_2d(5, 16)
    assert torch.cdist(flat, flat).fill_diagonal_(9).min() > 0.1  # no two places alike


def test_times_are_told_apart_to_a_thousandth():
    t = torch.linspace(0, 1, 1001)
    rows = embed_time(t, 32)
    assert rows.shape == (1001, 32)
    assert (rows[1:] - rows[:-1]).norm(dim=1).min() > 0.1
