"""Every figure of a model on some samples, as one JSON-able dictionary.

Only the model's public face is used. Samples are read once, embedded and forgotten: memory grows by
a vector, the captions and a label for each, whatever the pictures weigh.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from tqdm import tqdm

from mmfm.classify.knn import KNN
from mmfm.classify.linear_probe import fit_linear_probe
from mmfm.data.bad import BadSamples
from mmfm.data.sample import Sample
from mmfm.data.store import EmbeddingStore
from mmfm.errors import DataError, InputError
from mmfm.evaluation.bias import Bias
from mmfm.evaluation.captioning import Captioning
from mmfm.evaluation.cycle import Cycle
from mmfm.evaluation.gathered import Gathered, gather, label_of
from mmfm.evaluation.generation import Asking, Generation, drawn_by, judge_generator
from mmfm.evaluation.judge import Judge
from mmfm.evaluation.prompts import Prompts
from mmfm.evaluation.reconstruction import Reconstruction
from mmfm.evaluation.reranking import Reranking
from mmfm.evaluation.retrieval import recall_at_k, retrieval
from mmfm.evaluation.samples import Chosen, Samples, as_samples, open_samples
from mmfm.evaluation.scenes import Scenes
from mmfm.evaluation.zero_shot import calibration, learned, naming_figures, zero_shot

PARTS = ("retrieval", "zero_shot", "captioning", "reconstruction")  # unless others are asked for
LEARNED = ("calibration", "probe", "knn")  # these need examples to learn from
ASKED = ("prompts", "reranking", "bias")  # these take longer: questions, pictures of people
DRAWN = ("generation", "cycle")  # these draw a picture for each drawing that the judge knows
COMPOSED = ("scenes",)  # and this one for each scene of two drawings
_EVERY = (*PARTS, *ASKED, *DRAWN, *COMPOSED, *LEARNED)
_HELD_OUT = 20  # one sample in so many is for tests
_PROBE_FOLDS = 3

__all__ = [
    "ASKED", "COMPOSED", "DRAWN", "LEARNED", "PARTS", "Asking", "Chosen", "Judge", "Samples",
    "evaluate", "is_held_out", "judge_generator", "label_of", "naming_figures", "open_samples",
    "recall_at_k", "retrieval", "zero_shot",
]  # fmt: skip


def evaluate(
    model: Any,
    samples: Samples | Sequence[Sample],
    *,
    parts: Sequence[str] = PARTS,
    gallery: int = 1000,
    captions: str = "first",
    label: str = "category",
    names: Sequence[str] | None = None,
    templates: Any = None,
    train: Samples | Sequence[Sample] | None = None,
    store: EmbeddingStore | None = None,
    asking: Asking | None = None,
    judge: Judge | None = None,
    seed: int = 0,
    limit: int | None = None,
    on_bad: BadSamples | None = None,
    progress: bool = False,
) -> dict:
    """The figures of `parts`, with the count and identity of the data and the seed beside them.

    samples: a list, or what `open_samples` gives. limit: use so many of them, drawn with `seed`.
    retrieval: `gallery` images are searched by their captions ("first" of each, or "all").
    zero_shot: `label` is the field of meta that names the class, or "caption"; `names` are those of
    the classes where the field is their number, as `.cls` is; `templates` as in `MMFM.classify`.
    captioning: by both ports and by each alone. prompts: every kind of `mmfm.data.questions`.
    reranking: names' nearest drawings ordered by the caption head. bias: drawings of people, by
    gender word and skin tone (`Bias.figures`).
    calibration, probe, knn: learned on the labels of `train`, or, without it, on
    the samples that `is_held_out` does not choose; measured on the others.
    generation, cycle: pictures for the names of drawings that `judge` knows (default: the one that
    ships), asked for as `asking` says. scenes: the same for composed scenes of two drawings.
    store: vectors of this model that are there already. on_bad: what becomes of samples that cannot
    be used; default: the first raises. data.sha256: of the sorted sample keys, so that two figures
    can be seen to share their data.

    Raises InputError on an unknown part, DataError when there are no samples or none that a part
    can use, and what the model raises when it lacks the head that a part needs.
    """
    _known(parts)
    source, on_bad = as_samples(samples), on_bad or BadSamples()
    places = _draw(len(source), limit, seed)
    watch = _watchers(model, parts, asking or Asking(), judge, seed, progress)
    read = _shown(source.read(places, on_bad), len(places or source), progress)
    how: dict[str, Any] = {"label": label, "names": names, "store": store, "on_bad": on_bad}
    found = gather(model, read, watch=list(watch.values()), **how)
    if not len(found):
        raise DataError("no sample could be used; see what is wrong with `mmfm data inspect`")
    figures: dict[str, Any] = {
        "data": {
            "num_samples": len(found),
            "num_given": len(source),
            "num_bad": on_bad.num_lost,
            "sha256": hashlib.sha256("\n".join(sorted(found.keys)).encode()).hexdigest(),
        },
        "seed": seed,
        "backbone_hash": model.backbone_hash,
    }
    makers: dict[str, Callable[[], dict]] = {
        "retrieval": lambda: retrieval(model, found, gallery=gallery, seed=seed, captions=captions),
        "zero_shot": lambda: zero_shot(model, found, templates),
        **{name: part.figures for name, part in watch.items() if name in parts},
    }
    for name in {"reranking", "bias"} & set(parts):
        makers[name] = partial(watch[name].figures, found.images)
    if set(parts) & set(LEARNED):
        fit, test = _split(model, found, train, how, progress)
        makers.update(
            calibration=lambda: calibration(model, fit, test, templates),
            probe=lambda: learned(_probe, fit, test),
            knn=lambda: learned(KNN, fit, test),
        )
    return {**figures, **{name: makers[name]() for name in _EVERY if name in parts}}


def is_held_out(key: str) -> bool:
    """Whether a sample of this key is for tests: one in twenty, by the SHA-256 of its key."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % _HELD_OUT == 0


def _known(parts: Sequence[str]) -> None:
    unknown = [part for part in parts if part not in _EVERY]
    if unknown:
        raise InputError(f"there is no part {unknown[0]!r}; the parts are {', '.join(_EVERY)}")


def _watchers(
    model: Any, parts: Sequence[str], asking: Asking, judge: Judge | None, seed: int, progress: bool
) -> dict[str, Any]:
    """What looks at the pictures as they are read, by part; a cycle needs its generation."""
    makers = {"captioning": Captioning, "reconstruction": Reconstruction, "prompts": Prompts}
    watch: dict[str, Any] = {name: make(model) for name, make in makers.items() if name in parts}
    if "reranking" in parts:
        watch["reranking"] = Reranking(model)
    if "bias" in parts:
        watch["bias"] = Bias(model, seed)
    drawing: dict[str, Any] = {"num_prompts": asking.num_prompts, "seed": seed}
    if set(parts) & {*DRAWN, *COMPOSED}:
        draw = drawn_by(model, asking, progress)
        drawing["settings"] = asking.told(model)
    if set(parts) & set(DRAWN):
        watch["generation"] = Generation(draw, judge, **drawing)
    if "scenes" in parts:
        watch["scenes"] = Scenes(draw, judge, **drawing)
    if "cycle" in parts:
        watch["cycle"] = Cycle(model, watch["generation"])
    return watch


def _split(model: Any, found: Gathered, train: Any, how: dict[str, Any], progress: bool) -> tuple:
    if train is None:
        return found.labelled(lambda key: not is_held_out(key)), found.labelled(is_held_out)
    source = as_samples(train)
    read = _shown(source.read(None, how["on_bad"]), len(source), progress)
    examples = gather(model, read, **how)
    if not len(examples):
        raise DataError("no training sample could be used; see `mmfm data inspect`")
    return examples.labelled(), found.labelled()


def _probe(vectors: Any, targets: list[str]) -> Any:
    return fit_linear_probe(vectors, targets, folds=_PROBE_FOLDS)


def _draw(count: int, limit: int | None, seed: int) -> list[int] | None:
    if not count:
        raise DataError("evaluation needs samples and got none; pass shards or a folder")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}, wanted at least 1")
    if limit is None or limit >= count:
        return None
    return sorted(random.Random(seed).sample(range(count), limit))


def _shown(samples: Iterator[Sample], total: int, progress: bool) -> Iterator[Sample]:
    yield from tqdm(samples, "evaluate", total, unit="picture", disable=not progress, leave=False)
