"""Sample sheets: every picture at its place, white where none is."""

import numpy as np
import torch

from mmfm.training.sheet import grid_sheet, pairs_sheet


def colours(count):
    """Plain pictures of 4 px, each of its own grey level."""
    levels = torch.linspace(-1, 0.9, count)
    return levels[:, None, None, None].expand(-1, 3, 4, 4)


def grey(value):
    return round((float(value) + 1) * 127.5)


def test_pictures_run_in_rows():
    images = colours(11)
    sheet = np.asarray(grid_sheet(images, columns=4))
    assert sheet.shape == (12, 16, 3)
    for number in range(11):
        row, column = divmod(number, 4)
        tile = sheet[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert np.abs(tile.astype(int) - grey(images[number, 0, 0, 0])).max() <= 1
    assert (sheet[8:, 12:] == 255).all()


def test_pairs_lie_below_each_other():
    first, second = colours(5), colours(5).flip(0)
    sheet = np.asarray(pairs_sheet(first, second, columns=3)).astype(int)
    assert sheet.shape == (16, 12, 3)
    assert abs(sheet[0, 4, 0] - grey(first[1, 0, 0, 0])) <= 1
    assert abs(sheet[4, 4, 0] - grey(second[1, 0, 0, 0])) <= 1
    assert abs(sheet[12, 0, 0] - grey(second[3, 0, 0, 0])) <= 1


def test_values_beyond_the_range_are_clipped():
    sheet = np.asarray(grid_sheet(torch.full((1, 3, 4, 4), 3.0), columns=1))
    assert (sheet == 255).all()
