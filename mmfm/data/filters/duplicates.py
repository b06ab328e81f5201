"""Pictures that the set already holds: the same bytes, nearly the same look, or the same vector.

In each, samples are judged in order and the first stays, so the result is the same for any number
of processes, and among what stays there is no further duplicate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmfm.data.filters import hamming
from mmfm.data.filters.filter import Drop, MeasuredFilter, SetFilter, Table
from mmfm.data.filters.phash import SKETCH, describe, sketch_difference
from mmfm.data.sample import Sample
from mmfm.errors import DataError

DISTANCE = 8  # of 64 bits
DIFFERENCE = 0.12  # of the contrast, in the worst cell of an 8 x 8 copy
VECTOR_BLOCK = 1024  # rows compared with all kept ones at once

# rows (n,) -> (n, D) float32 of unit length; a row of zeros: the picture cannot be read
Vectors = Callable[[np.ndarray], np.ndarray]


class ExactDuplicates(MeasuredFilter):
    """Pictures whose encoded bytes are equal, by sha256. In memory: 40 bytes a picture."""

    name = "exact-duplicate"

    def __init__(self) -> None:
        self.forget()

    def settings(self) -> dict[str, Any]:
        return {}

    def forget(self) -> None:
        self._digests = Table("S32")

    def measure(self, sample: Sample) -> bytes:
        # why: the type S drops zeros at the end, so the last byte must not be one
        return hashlib.sha256(sample.image).digest()[:31] + b"."

    def see(self, rows: list[int], measures: list[bytes]) -> None:
        self._digests.add(rows, measures)

    def judge_all(self, rows: np.ndarray) -> Iterator[tuple[int, Drop]]:
        digests = self._digests.at(rows)
        _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
        leader = first[inverse]
        for place in np.flatnonzero(leader != np.arange(len(rows))):
            yield int(rows[place]), Drop("same-bytes", of=int(rows[leader[place]]))


class NearDuplicates(MeasuredFilter):
    """Pictures near in the 64-bit perceptual hash and in every cell of a small colour copy.

    The defaults were chosen on 260 photographs and parts of photographs, and on 6,000 drawings of
    icons (64 px), whose near pairs were looked at. Copies found, with 8 bits and 0.12:

        copy                     photographs   drawings
        JPEG quality 75              1.00        0.97
        JPEG quality 30              1.00        0.91
        WebP quality 50              1.00        0.98
        half, twice the size         1.00        1.00
        1.6 % cut off each side      0.79        0.46    with 0.2: 0.92 of photographs
        3 %                          0.31        0.02              0.63

    Of 33,670 pairs of different photographs or parts none were taken for copies, at 0.2 neither.
    Of the drawings 41 went: all look nearly alike, but 11 mean something else (a worried and a
    smiling face) and 30 differ in skin tone or sex only. By the hash alone 32,887 pairs of them
    are near, since flat drawings collide. So: 0.12 by default, 0.2 for photographs, and where
    such small differences matter, `ExactDuplicates`.

    In memory: 208 bytes a picture, and while judging 8 bytes more for each of 4 to 9 bands.
    """

    name = "near-duplicate"

    def __init__(self, distance: int = DISTANCE, difference: float = DIFFERENCE) -> None:
        """distance: bits that may differ, 0 to 16. difference: share of the contrast, 0 to 1.

        Raises DataError for other values.
        """
        if not 0 <= distance <= hamming.MAX_DISTANCE:
            raise DataError(
                f"the hash distance is {distance}; wanted 0 to {hamming.MAX_DISTANCE} of 64 bits"
            )
        if not 0 <= difference <= 1:
            raise DataError(f"the sketch difference is {difference}; wanted a share from 0 to 1")
        self.distance, self.difference = distance, difference
        self.forget()

    def settings(self) -> dict[str, Any]:
        return {"hash_distance": self.distance, "sketch_difference": self.difference}

    def forget(self) -> None:
        self._hashes = Table(np.uint64)
        self._sketches = Table(np.uint8, (SKETCH,))

    def measure(self, sample: Sample) -> tuple[int, bytes]:
        return describe(sample.image)

    def see(self, rows: list[int], measures: list[tuple[int, bytes]]) -> None:
        self._hashes.add(rows, [value for value, _ in measures])
        sketches = b"".join(sketch for _, sketch in measures)
        self._sketches.add(rows, np.frombuffer(sketches, np.uint8))

    def judge_all(self, rows: np.ndarray) -> Iterator[tuple[int, Drop]]:
        hashes, sketches = self._hashes.at(rows), self._sketches.at(rows)

        def agree(first: np.ndarray, second: np.ndarray) -> np.ndarray:
            return sketch_difference(sketches[first], sketches[second]) <= self.difference

        for place, of in hamming.first_of_near(hashes, self.distance, agree):
            bits = int(np.bitwise_count(hashes[place] ^ hashes[of]))
            worst = sketch_difference(sketches[place : place + 1], sketches[of : of + 1])[0]
            value = {"bits": bits, "difference": round(float(worst), 3)}
            yield int(rows[place]), Drop("near-picture", value, of=int(rows[of]))


class EmbeddingDuplicates(SetFilter):
    """Pictures whose vectors have a cosine of at least `cosine` with one that stays.

    Exact and blocked: time grows with the square of the pictures (about 2 N^2 D / 2 operations),
    memory with N: 4 D bytes a picture.
    """

    name = "embedding-duplicate"

    def __init__(self, cosine: float, vectors: Vectors, model: dict[str, Any]) -> None:
        """vectors: asked once, with all rows still in. model: what made them, for the manifest.

        Raises DataError for a cosine outside (0, 1].
        """
        if not 0 < cosine <= 1:
            raise DataError(f"the cosine of near duplicates is {cosine}; wanted above 0, up to 1")
        self.cosine, self.vectors, self.model = cosine, vectors, model

    def settings(self) -> dict[str, Any]:
        return {"min_cosine": self.cosine, **self.model}

    def judge_all(self, rows: np.ndarray) -> Iterator[tuple[int, Drop]]:
        vectors = self.vectors(rows)
        for place, row in enumerate(rows.tolist()):
            if not vectors[place].any():
                yield row, Drop("not-an-image")
        for place, of, cosine in first_of_alike(vectors, self.cosine):
            yield int(rows[place]), Drop("near-vector", round(cosine, 4), of=int(rows[of]))


def first_of_alike(vectors: np.ndarray, cosine: float) -> Iterator[tuple[int, int, float]]:
    """(row, the kept row most like it, their cosine), for each row that is like a kept one.

    vectors: (n, D) of unit length. Rows are judged in order: a row is dropped when its cosine with
    some kept row before it is at least `cosine`.
    """
    kept = np.empty(len(vectors), np.int64)  # rows that stay, in order; the first `count` hold
    count = 0
    for start in range(0, len(vectors), VECTOR_BLOCK):
        block = np.asarray(vectors[start : start + VECTOR_BLOCK], np.float32)
        best = np.full(len(block), -np.inf, np.float32)
        of = np.zeros(len(block), np.int64)
        for low in range(0, count, VECTOR_BLOCK):
            some = kept[low : min(low + VECTOR_BLOCK, count)]
            like = block @ np.asarray(vectors[some], np.float32).T
            top = like.argmax(axis=1)
            value = like[np.arange(len(block)), top]
            of = np.where(value > best, some[top], of)
            best = np.maximum(best, value)
        inside = block @ block.T
        stay: list[int] = []
        for place in range(len(block)):
            if stay and (value := inside[place, stay]).max() > best[place]:
                best[place], of[place] = value.max(), start + stay[int(value.argmax())]
            if best[place] >= cosine:
                yield start + place, int(of[place]), float(best[place])
            else:
                stay.append(place)
        kept[count : count + len(stay)] = [start + place for place in stay]
        count += len(stay)
