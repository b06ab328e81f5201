"""Pictures of several equal things: copies of one drawing on one canvas, to learn counting from."""

from __future__ import annotations

import numpy as np
from PIL import Image

NUMBERS = ("one", "two", "three", "four", "five", "six")


def with_copies(rgba: np.ndarray, count: int, chance: np.random.Generator) -> np.ndarray:
    """`count` copies (1 to 6) of a square drawing (H, W, 4) uint8 on a canvas of the same size.

    They stand in different cells of a grid, shifted a little. Grids are finer than they need to be
    as often as not, so that the size of a copy does not tell how many there are.
    """
    size = len(rgba)
    least = int(np.ceil(np.sqrt(count)))
    side = int(chance.integers(least, 4)) if least < 3 else 3
    edge = size // side
    drawing = Image.fromarray(rgba)
    small = drawing if side == 1 else drawing.resize((edge, edge), Image.Resampling.BOX)
    canvas = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    for cell in chance.permutation(side * side)[:count]:
        row, column = divmod(int(cell), side)
        room = size - side * edge  # what the cells leave over
        left, top = (int(n) for n in chance.integers(0, room + 1, 2))
        canvas.alpha_composite(small, (column * edge + left, row * edge + top))
    return np.asarray(canvas)
