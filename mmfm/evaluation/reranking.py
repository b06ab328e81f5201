"""Search by names, and the nearest hits ordered by the caption head, as `mmfm search --rerank`."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmfm.data.sample import Sample
from mmfm.errors import DataError

DEPTH = 10  # hits that are ordered anew


class Reranking:
    """Called with blocks of samples, whose bytes it holds, then once for `figures`.

    Drawings with a skin tone are left out: their names differ by the tone alone.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.images: list[bytes] = []
        self.names: list[str] = []
        self.rows: list[int] = []  # places among all samples that were seen
        self.seen = 0

    def __call__(self, block: list[Sample]) -> None:
        for sample in block:
            if sample.captions and not sample.meta.get("skin_tone"):
                self.images.append(sample.image)
                self.names.append(sample.meta.get("name") or sample.captions[0])
                self.rows.append(self.seen)
            self.seen += 1

    def figures(self, vectors: np.ndarray) -> dict[str, Any]:
        """vectors: (N, D), of all samples in order. Each different name searches the drawings.

        recall@1: the first by cosine has that name; reranked_recall@1: the first of the DEPTH
        nearest by `caption_score`; within_depth: a drawing of that name is among them, which is
        the most that ordering them can give. Raises DataError without a named drawing.
        """
        if not self.names:
            raise DataError("reranking needs drawings with names and got none; pass captioned data")
        texts = sorted(set(self.names))
        own = np.array(self.names)
        depth = min(DEPTH, len(own))
        scores = self.model.embed_texts(texts, precision="fp32") @ vectors[self.rows].T
        near = np.argsort(-scores, axis=1, kind="stable")[:, :depth]  # (texts, depth)
        right = own[near] == np.array(texts)[:, None]
        images = [self.images[place] for place in near.ravel()]
        likely = self.model.caption_score(images, [text for text in texts for _ in range(depth)])
        first = likely.reshape(near.shape).argmax(axis=1)
        return {
            "num_names": len(texts),
            "gallery": len(own),
            "depth": depth,
            "recall@1": float(right[:, 0].mean()),
            "reranked_recall@1": float(right[np.arange(len(texts)), first].mean()),
            "within_depth": float(right.any(axis=1).mean()),
        }
