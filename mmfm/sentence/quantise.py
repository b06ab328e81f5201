"""Vectors in fewer bits, equal to those of `sentence_transformers.quantize_embeddings` 6.2.

This is the precision of what is *stored*; in which precision the towers compute is `compute=`.
"""

from __future__ import annotations

import numpy as np

from mmfm.errors import InputError

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def quantise(vectors: np.ndarray, precision: str, ranges: np.ndarray | None = None) -> np.ndarray:
    """(N, D) float -> (N, D) int8 or uint8, or (N, ceil(D / 8)) with one bit a number.

    int8, uint8: each dimension's range is cut into 255 steps. ranges: (2, D), the least and the
    greatest of each dimension; default those of `vectors` themselves, which makes a code depend on
    its batch: pass ranges of a representative set to compare codes of several calls.
    binary, ubinary: the signs, packed; binary is shifted by 128 to int8.

    Raises InputError on an unknown precision, and where ranges would come from a single vector.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}, wanted one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return vectors.astype(np.float32, copy=False)
    if precision.endswith("binary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits - 128).astype(np.int8)
    if ranges is None:
        if len(vectors) < 2:
            raise InputError(
                f"{precision} needs the range of each dimension, which one vector does not give; "
                "pass several at once, or ask for float32 and call quantise with ranges"
            )
        ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    start, stop = np.asarray(ranges, np.float32)
    step = (stop - start) / 255
    step = np.where(step == 0, 1, step)
    codes = np.clip(np.floor((vectors - start) / step), 0, 255)
    return codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)
