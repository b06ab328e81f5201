"""Search by text and by image: recall@k and ranks in a gallery, with chance beside them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from math import comb
from typing import Any

import numpy as np

from mmfm.errors import DataError, InputError
from mmfm.evaluation.gathered import Gathered
from mmfm.evaluation.words import words

KS = (1, 5, 10)
_SCORES = 1 << 22  # of queries with items, held at a time

Groups = Sequence[str] | Sequence[Sequence[str]]


def recall_at_k(
    text_vectors: np.ndarray,
    image_vectors: np.ndarray,
    text_groups: Sequence[str],
    image_groups: Groups,
    ks: Sequence[int] = KS,
) -> dict[str, float]:
    """Recall in both directions, as fractions, and the recall that a random order would have.

    text_vectors: (M, D), image_vectors: (N, D), unit length. text_groups: one for each text;
    image_groups: one for each image, or several. A hit is any item that shares a group with the
    query among the first k; an item that does not, with an equal score, counts as before it.
    Keys: text_to_image_recall@k, image_to_text_recall@k, and each with _chance; and, of the place
    of the first hit (1 is best), _mean_rank, _median_rank, and _mean_rank_chance.

    Raises InputError when groups and vectors differ in number or there are none, or when a group
    is on one side only.
    """
    if len(text_vectors) != len(text_groups) or len(image_vectors) != len(image_groups):
        raise InputError(
            f"got {len(text_vectors)} and {len(image_vectors)} vectors with {len(text_groups)} and "
            f"{len(image_groups)} groups; pass one group for each vector"
        )
    of_image = [{some} if isinstance(some, str) else set(some) for some in image_groups]
    if not len(text_groups) or set(text_groups) != set().union(*of_image):
        raise InputError(
            "recall needs at least one text and one image, and every group on both sides; leave "
            "out what has no match"
        )
    of_text = [{group} for group in text_groups]
    texts = np.asarray(text_vectors, np.float32)
    images = np.asarray(image_vectors, np.float32)
    figures = {}
    for name, queries, items, wanted, there in (
        ("text_to_image", texts, images, of_text, of_image),
        ("image_to_text", images, texts, of_image, of_text),
    ):
        wrong, hits = _before_first_hit(queries, items, wanted, there)
        for k in ks:
            figures[f"{name}_recall@{k}"] = float((wrong < k).mean())
            figures[f"{name}_recall@{k}_chance"] = _chance(hits, len(items), k)
        figures[f"{name}_mean_rank"] = float(wrong.mean() + 1)
        figures[f"{name}_median_rank"] = float(np.median(wrong) + 1)
        figures[f"{name}_mean_rank_chance"] = float(((len(items) + 1) / (hits + 1)).mean())
    return figures


def _before_first_hit(
    queries: np.ndarray, items: np.ndarray, wanted: list[set[str]], there: list[set[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each query: wrong items before the first right one, and how many right ones there are."""
    wrong, counts = np.empty(len(queries), np.int64), np.empty(len(queries), np.int64)
    rows = defaultdict(list)
    for row, groups in enumerate(there):
        for group in groups:
            rows[group].append(row)
    for start in _starts(len(queries), len(items)):
        part = slice(*start)
        scores = queries[part] @ items.T
        hits = np.zeros(scores.shape, bool)
        for row, groups in enumerate(wanted[part]):
            for group in groups:
                hits[row, rows[group]] = True
        best = np.where(hits, scores, -np.inf).max(axis=1, keepdims=True)
        wrong[part] = ((scores >= best) & ~hits).sum(axis=1)
        counts[part] = hits.sum(axis=1)
    return wrong, counts


def _starts(queries: int, items: int) -> Iterator[tuple[int, int]]:
    step = max(1, _SCORES // items)
    for start in range(0, queries, step):
        yield start, min(queries, start + step)


def _chance(matches: np.ndarray, size: int, k: int) -> float:
    """Mean over queries of P(one of m matches is among k items drawn from `size`)."""
    k = min(k, size)
    counts = Counter(matches.tolist())
    misses = sum(n * (comb(size - m, k) / comb(size, k)) for m, n in counts.items())
    return 1 - misses / len(matches)


def retrieval(
    model: Any, found: Gathered, *, gallery: int = 1000, seed: int = 0, captions: str = "first"
) -> dict:
    """Recall@1/5/10 and ranks of a model on `gallery` samples drawn with `seed` (or all).

    captions: "first" asks for each image by its first caption, "all" by every one (five in COCO and
    Flickr30k). Images that share a caption, word by word, are right answers for it. Raises
    DataError when no sample has a caption, InputError on another word.
    """
    if captions not in ("first", "all"):
        raise InputError(f"captions is {captions!r}, wanted first or all")
    rows = [row for row, some in enumerate(found.captions) if any(map(str.strip, some))]
    if not rows:
        raise DataError("retrieval needs samples with captions and got none; pass captioned data")
    if len(rows) > gallery:
        rows = random.Random(seed).sample(rows, gallery)
    most = 1 if captions == "first" else None
    said = [[text for text in found.captions[row] if text.strip()][:most] for row in rows]
    texts = [text for some in said for text in some]
    groups = [[_group(text) for text in some] for some in said]
    figures = recall_at_k(
        model.embed_texts(texts, precision="fp32"),
        found.images[rows],
        [g for some in groups for g in some],
        groups,
    )
    counts = {"gallery": len(rows), "num_captions": len({g for some in groups for g in some})}
    if captions == "all":
        counts["num_texts"] = len(texts)
    return {**counts, "seed": seed, **figures}


def _group(text: str) -> str:
    return " ".join(words(text)) or text  # why: a caption without letters is its own group
