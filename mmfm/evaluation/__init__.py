"""Every figure of a model on a list of samples, as one JSON-able dictionary.

Only the model's public face is used, and nothing is known of where the samples come from.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from mmfm.data.sample import Sample
from mmfm.errors import DataError, InputError
from mmfm.evaluation.captioning import captioning
from mmfm.evaluation.reconstruction import reconstruction
from mmfm.evaluation.retrieval import retrieval
from mmfm.evaluation.zero_shot import zero_shot

PARTS = ("retrieval", "zero_shot", "captioning", "reconstruction")

__all__ = ["PARTS", "captioning", "evaluate", "reconstruction", "retrieval", "zero_shot"]


def evaluate(
    model,
    samples: Sequence[Sample],
    *,
    gallery: int = 1000,
    seed: int = 0,
    limit: int | None = None,
    parts: Sequence[str] = PARTS,
    progress: bool = False,
) -> dict:
    """The figures of `parts`, with the count and identity of the data and the seed beside them.

    gallery: images that retrieval searches. limit: use so many samples, drawn with `seed`.
    data.sha256: of the sorted sample keys, so that two figures can be seen to share their data.

    Raises InputError on an unknown part, DataError when there are no samples, and what the model
    raises when it lacks the head that a part needs.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise InputError(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    samples = list(samples)
    if not samples:
        raise DataError("evaluation needs samples and got none; pass shards or a folder")
    num_given = len(samples)
    if limit is not None and limit < num_given:
        if limit < 1:
            raise InputError(f"limit is {limit}, wanted at least 1")
        samples = random.Random(seed).sample(samples, limit)
    keys = "\n".join(sorted(str(sample.meta.get("key", sample.key)) for sample in samples))
    figures: dict = {
        "data": {
            "num_samples": len(samples),
            "num_given": num_given,
            "sha256": hashlib.sha256(keys.encode()).hexdigest(),
        },
        "seed": seed,
        "backbone_hash": model.backbone_hash,
    }
    if "retrieval" in parts:
        figures["retrieval"] = retrieval(model, samples, gallery, seed, progress)
    if "zero_shot" in parts:
        figures["zero_shot"] = zero_shot(model, samples)
    if "captioning" in parts:
        figures["captioning"] = captioning(model, samples, progress)
    if "reconstruction" in parts:
        figures["reconstruction"] = reconstruction(model, samples, progress)
    return figures
