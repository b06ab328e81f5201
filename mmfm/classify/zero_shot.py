"""A classifier from words alone: each label becomes the mean of its sentences' vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mmfm.classify.head import LinearHead
from mmfm.classify.templates import fill, read_templates
from mmfm.errors import TextError
from mmfm.preprocess.text import check_texts

Labels = Sequence[str] | Mapping[str, Sequence[str]]
_TEXTS = 4096  # embedded at a time


def zero_shot_head(
    embed_texts: Callable[[list[str]], np.ndarray], labels: Labels, templates: Any = None, *,
    scale: float, bias: float = 0.0, loss: str = "softmax", space: str = "",
) -> LinearHead:  # fmt: skip
    """Prompt ensembling (Radford et al., arXiv:2103.00020): unit vectors averaged, made unit again.

    embed_texts: N texts -> (N, D) unit vectors. labels: names, or for each name the words it goes
    by ({"dog": ["dog", "puppy"]}). templates: see `read_templates`; default the words alone.
    scale, bias: what the backbone was trained to multiply cosines with and to add.

    Raises TextError on empty or repeated labels and on templates without {}.
    """
    words = read_labels(labels)
    sentences = read_templates(templates)
    texts = [[fill(t, word) for word in words[label] for t in sentences] for label in words]
    weight = np.stack([vector for part in _parts(texts) for vector in _means(embed_texts, part)])
    notes: dict[str, Any] = {"kind": "zero-shot", "templates": list(sentences)}
    if any(names != [label] for label, names in words.items()):
        notes["words"] = words
    return LinearHead(
        tuple(words),
        (scale * weight).astype(np.float32),
        np.full(len(words), bias, np.float32),
        loss,
        space,
        notes,
    )


def read_labels(labels: Labels) -> dict[str, list[str]]:
    """Each label with the words it goes by. Raises TextError on empty and repeated ones."""
    if isinstance(labels, Mapping):
        names = check_texts(list(labels))
        return {name: check_texts(labels[name]) for name in names}
    names = check_texts(labels)
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise TextError(f"the label {twice[0]!r} is given twice; give each once")
    return {name: [name] for name in names}


def _parts(texts: list[list[str]]) -> list[list[list[str]]]:
    """Labels in runs of about `_TEXTS` texts."""
    parts: list[list[list[str]]] = [[]]
    held = 0
    for some in texts:
        if held and held + len(some) > _TEXTS:
            parts.append([])
            held = 0
        parts[-1].append(some)
        held += len(some)
    return parts


def _means(
    embed_texts: Callable[[list[str]], np.ndarray], texts: list[list[str]]
) -> list[np.ndarray]:
    vectors = embed_texts([text for some in texts for text in some])
    ends = np.cumsum([len(some) for some in texts])[:-1]
    means = [part.mean(axis=0, dtype=np.float64) for part in np.split(vectors, ends)]
    return [mean / max(np.linalg.norm(mean), 1e-12) for mean in means]
