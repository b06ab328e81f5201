"""Search by text and by image: recall@k in a gallery, with chance beside it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from math import comb

import numpy as np

from mmfm.data.sample import Sample
from mmfm.errors import DataError, InputError
from mmfm.evaluation.words import words


def recall_at_k(
    text_vectors: np.ndarray,
    image_vectors: np.ndarray,
    text_groups: Sequence[str],
    image_groups: Sequence[str],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Recall in both directions, as fractions, and the recall that a random order would have.

    text_vectors: (M, D), image_vectors: (N, D), unit length. A hit is any item of the query's
    group among the first k; an item of another group with an equal score counts as before it.
    Keys: text_to_image_recall@k, image_to_text_recall@k, and each with _chance.

    Raises InputError when groups and vectors differ in number or there are none, or when a group
    is on one side only.
    """
    if len(text_vectors) != len(text_groups) or len(image_vectors) != len(image_groups):
        raise InputError(
            f"got {len(text_vectors)} and {len(image_vectors)} vectors with {len(text_groups)} and "
            f"{len(image_groups)} groups; pass one group for each vector"
        )
    if not len(text_groups) or set(text_groups) != set(image_groups):
        raise InputError(
            "recall needs at least one text and one image, and every group on both sides; leave "
            "out what has no match"
        )
    scores = np.asarray(text_vectors, np.float32) @ np.asarray(image_vectors, np.float32).T
    same = np.asarray(text_groups)[:, None] == np.asarray(image_groups)[None, :]
    figures = {}
    for name, s, hits in (("text_to_image", scores, same), ("image_to_text", scores.T, same.T)):
        best = np.where(hits, s, -np.inf).max(axis=1, keepdims=True)
        ranks = ((s >= best) & ~hits).sum(axis=1)  # wrong items before the first right one
        for k in ks:
            figures[f"{name}_recall@{k}"] = float((ranks < k).mean())
            figures[f"{name}_recall@{k}_chance"] = _chance(hits.sum(axis=1), s.shape[1], k)
    return figures


def _chance(matches: np.ndarray, size: int, k: int) -> float:
    """Mean over queries of P(one of m matches is among k items drawn from `size`)."""
    k = min(k, size)
    counts = Counter(matches.tolist())
    misses = sum(n * (comb(size - m, k) / comb(size, k)) for m, n in counts.items())
    return 1 - misses / len(matches)


def retrieval(
    model, samples: Sequence[Sample], gallery: int = 1000, seed: int = 0, progress: bool = False
) -> dict:
    """Recall@1/5/10 of a model on `gallery` samples drawn with `seed` (all, when there are fewer).

    Each image is asked for by its first caption; images whose first captions are the same words
    are right answers for each other. Raises DataError when no sample has a caption.
    """
    captioned = [sample for sample in samples if sample.captions]
    if not captioned:
        raise DataError("retrieval needs samples with captions and got none; pass captioned data")
    if len(captioned) > gallery:
        captioned = random.Random(seed).sample(captioned, gallery)
    texts = [sample.captions[0] for sample in captioned]
    # why: a caption without letters (an emoji, punctuation) is its own group
    groups = [" ".join(words(text)) or text for text in texts]
    images = model.embed_images([sample.image for sample in captioned], progress=progress)
    figures = recall_at_k(model.embed_texts(texts, progress=progress), images, groups, groups)
    return {"gallery": len(captioned), "num_captions": len(set(groups)), "seed": seed, **figures}
