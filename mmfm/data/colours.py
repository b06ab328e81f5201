"""Which colours a drawing has, in the eleven basic words of English (Berlin and Kay, 1969)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

LEAST_SHARE = 0.2  # of the drawn area, for a colour to be named
# A few RGB examples of each word; a pixel has the word of the example nearest to it in CIELAB.
EXAMPLES = {
    "black": ("000000", "2b2b30"),
    "white": ("ffffff", "f2f4f7"),
    "grey": ("808080", "b4b8bc", "5a5f66"),
    "red": ("dc1e28", "a01428", "ff5a50"),
    "orange": ("ff8c00", "f0781e", "ffb04a"),
    "yellow": ("ffdc32", "ffc83c", "fff096"),
    "green": ("3ca03c", "78be50", "006432", "7ed9a6"),
    "blue": ("2864dc", "5ab4fa", "142878", "0096c8", "b4dcff"),
    "purple": ("823cb4", "b482e6", "4b2873"),
    "pink": ("ff96b4", "e63c8c", "ffc8d2"),
    "brown": ("784628", "a0643c", "5a321e", "c89664"),
}
COLOURS = tuple(EXAMPLES)


def lab(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) sRGB in [0, 255] -> CIELAB under D65, in which distances are near to seen ones."""
    linear = np.asarray(rgb, np.float64) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
         [0.0193339, 0.1191920, 0.9503041]]
    )  # fmt: skip
    ratios = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    bent = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(bent, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


_WORDS = np.array([i for i, one in enumerate(EXAMPLES.values()) for _ in one])
_STEP = 8  # colours are told apart to this many of 256 levels


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """(32768,) number of the word of each colour, by its five high bits of red, green and blue."""
    levels = np.arange(_STEP // 2, 256, _STEP)
    every = lab(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)).reshape(
        -1, 3
    )
    points = lab(np.array([list(bytes.fromhex(rgb)) for one in EXAMPLES.values() for rgb in one]))
    distances = np.stack([((every - point) ** 2).sum(axis=1) for point in points], axis=1)
    return _WORDS[distances.argmin(axis=1)]


def shares(rgba: np.ndarray) -> np.ndarray:
    """(11,) share of the drawn area, weighted by alpha, that has each of COLOURS.

    rgba: (H, W, 4) uint8. All zeros where nothing is drawn.
    """
    levels = rgba.reshape(-1, 4).astype(np.int64)
    places = levels[:, :3] // _STEP @ np.array([32 * 32, 32, 1])
    found = np.bincount(_table()[places], weights=levels[:, 3], minlength=len(COLOURS))
    return found / max(1.0, found.sum())


def dominant_colours(rgba: np.ndarray, most: int = 2) -> tuple[str, ...]:
    """The words of the largest areas, the largest first, at most `most` of them.

    A colour counts from a share of 0.2; the largest always does. Empty where nothing is drawn.
    """
    found = shares(rgba)
    order = [i for i in np.argsort(-found, kind="stable")[:most] if found[i] > 0]
    return tuple(COLOURS[i] for rank, i in enumerate(order) if rank == 0 or found[i] >= LEAST_SHARE)
