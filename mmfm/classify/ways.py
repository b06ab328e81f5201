"""A classifier from words and a few labelled pictures, by every way there is, without training a
tower: what each gives on pictures held out, and the one that the examples themselves speak for.

    zero-shot     the words alone
    prompts       the words in the sentences that fit the examples (prompts.py)
    class means   those, blended with the mean vector of each label's examples: the training-free
                  adapter of Zhang et al., 2207.09519, with one key a label, so that it is linear
    label tuning  those, moved by a few steps (label_tuning.py)
    linear probe  those, as what a probe's decay pulls towards (linear_probe.py)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmfm.classify.calibration import negative_log_likelihood
from mmfm.classify.head import LinearHead, expect_vectors, numbers
from mmfm.classify.label_tuning import tuned_at
from mmfm.classify.linear_probe import DECAYS, DEFAULT_DECAY, FOLDS, _folds, fit_linear_probe
from mmfm.classify.prompts import POOL, choose_templates, is_clear
from mmfm.classify.zero_shot import Labels, read_labels
from mmfm.errors import InputError

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
STEPS = (0, 2, 5, 10, 20, 40, 80)
DEFAULT_WAY = "linear probe"
DEFAULT_SHARE, DEFAULT_STEPS = 0.7, 5  # where no label has an example to spare; both were measured

Examples = tuple[Any, Sequence[str]]  # pictures or their (N, D) vectors, and their labels
Fit = Callable[[np.ndarray, Sequence[str]], LinearHead]


@dataclass(frozen=True)
class _Way:
    """A head, and how it was chosen. held_out: its logits for examples that it had not seen."""

    head: LinearHead
    facts: dict[str, Any]
    held_out: np.ndarray | None = None


def adapt(
    model: Any, train: Examples, hold_out: Examples | None = None, *, words: Labels | None = None,
    templates: Any = POOL, folds: int = FOLDS, seed: int = 0, progress: bool = False,
) -> tuple[dict[str, Any], LinearHead]:  # fmt: skip
    """Figures of every way, as plain JSON types, and the head of the way that was chosen.

    model: an MMFM. train, hold_out: pictures (all that `embed_images` takes) or their (N, D)
    vectors, each with N labels. Everything is chosen by cross-validation on `train`; the pictures
    of `hold_out` are read when all is done. words: what the labels go by, as in `classify`; default
    their names. templates: to choose from. The head is of softmax; `head.save` writes it for
    `mmfm classify --head`.

    figures: "labels", "train" and "hold_out" (numbers of pictures), "chosen", "ways": for each its
    settings, "validated" (correct of how many examples held out in turn; None where each label has
    one) and "hold_out": correct, count, accuracy, loss (cross-entropy, nats).

    Raises InputError on fewer than two labels, numbers that differ, or labels of `hold_out` that
    `train` (or words) lacks; TextError and ImageError as `classify`.
    """
    targets = [str(target) for target in train[1]]
    named = read_labels(sorted(set(targets)) if words is None else words)
    if len(named) < 2:
        raise InputError(f"got {len(named)} labels, wanted two or more to choose from")
    y = numbers(targets, tuple(named))
    if hold_out is not None:
        numbers([str(target) for target in hold_out[1]], tuple(named))
    vectors = _vectors(model, train, progress)
    ways = _ways(model, vectors, targets, named, templates, folds, seed)
    held = _folds(y, folds, seed) >= 0
    chosen = _best(ways, y[held])
    figures: dict[str, Any] = {
        "labels": len(named), "train": len(targets),
        "hold_out": 0 if hold_out is None else len(hold_out[1]), "chosen": chosen, "ways": {},
    }  # fmt: skip
    for name, way in ways.items():
        figures["ways"][name] = {**way.facts, "validated": _figures(way.held_out, y[held])}
    head = ways[chosen].head
    if hold_out is not None:
        seen = _vectors(model, hold_out, progress)
        right = numbers([str(target) for target in hold_out[1]], tuple(named))
        for name, way in ways.items():
            figures["ways"][name]["hold_out"] = _figures(way.head.logits(seen), right)
    return figures, head


def _ways(
    model: Any, vectors: np.ndarray, targets: list[str], named: dict[str, list[str]],
    templates: Any, folds: int, seed: int,
) -> dict[str, _Way]:  # fmt: skip
    y = numbers(targets, tuple(named))
    fold = _folds(y, folds, seed)
    held = fold >= 0

    def cross(fit: Fit) -> np.ndarray | None:
        """Logits of the examples that can be held out, each by a fit without its fold."""
        return _cross(fit, vectors, targets, fold, len(named))

    def wordy(sentences: Any) -> LinearHead:
        made = model.zero_shot_head(named, sentences)
        # why no bias: it is one for all labels, and here they share one probability
        return replace(made, loss="softmax", bias=np.zeros_like(made.bias))

    plain = wordy(None)
    scale = model.backbone.logit_scale.item()
    choice = choose_templates(
        vectors, targets, named, model.embed_texts, scale=scale, pool=templates, folds=folds,
        seed=seed,
    )  # fmt: skip
    prior = wordy(choice.templates)
    none = not held.any()
    ways = {
        "zero-shot": _Way(plain, {}, None if none else plain.logits(vectors[held])),
        "prompts": _Way(prior, {"templates": list(choice.templates)},
                        None if none else prior.logits(vectors[held])),
    }  # fmt: skip

    def means(share: float) -> Fit:
        return lambda x, t: prior.blended(_means(x, t, prior), share)

    share = _pick(SHARES, lambda one: cross(means(one)), y[held], DEFAULT_SHARE)
    blend = replace(means(share)(vectors, targets), space=prior.space)
    ways["class means"] = _Way(blend, {"share": share}, cross(means(share)))

    def tuned(steps: int) -> Fit:
        return lambda x, t: tuned_at(x, t, prior, [steps])[0]

    steps = _pick(STEPS, lambda one: cross(tuned(one)), y[held], DEFAULT_STEPS)
    ways["label tuning"] = _Way(tuned(steps)(vectors, targets), {"steps": steps},
                                cross(tuned(steps)))  # fmt: skip
    probe = fit_linear_probe(
        vectors, targets, prior=prior, decays=DECAYS if not none else (DEFAULT_DECAY,),
        folds=folds, seed=seed, space=prior.space,
    )  # fmt: skip
    decay = probe.notes["decay"]

    def probed(x: np.ndarray, t: Sequence[str]) -> LinearHead:
        return fit_linear_probe(x, t, prior=prior, decays=(decay,))

    ways["linear probe"] = _Way(probe, {"decay": decay}, cross(probed))
    return ways


def _means(vectors: np.ndarray, targets: Sequence[str], prior: LinearHead) -> LinearHead:
    """Rows in the direction of each label's mean example, as long as the prior's, which stay where
    a label has none.
    """
    y = numbers(targets, prior.labels)
    sums = np.zeros(prior.weight.shape)
    np.add.at(sums, y, vectors.astype(np.float64))
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    own = np.linalg.norm(prior.weight.astype(np.float64), axis=1, keepdims=True)
    rows = np.where(length > 0, own * sums / np.maximum(length, 1e-12), prior.weight)
    notes = {"kind": "class means", "count": len(targets)}
    return replace(prior, weight=rows.astype(np.float32), notes=notes)


def _cross(
    fit: Fit, vectors: np.ndarray, targets: Sequence[str], fold: np.ndarray, count: int
) -> np.ndarray | None:
    if not (fold >= 0).any():
        return None
    logits = np.empty((len(targets), count), np.float32)
    for one in np.unique(fold[fold >= 0]):
        test, rest = fold == one, np.flatnonzero(fold != one)
        head = fit(vectors[rest], [targets[int(row)] for row in rest])
        logits[test] = head.logits(vectors[test])
    return logits[fold >= 0]


def _pick(settings: Sequence[Any], validate: Any, y: np.ndarray, default: Any) -> Any:
    """The setting with the least cross-entropy on held-out examples; the first of equal ones."""
    scores = {one: logits for one in settings if (logits := validate(one)) is not None}
    if not scores:
        return default
    return min(scores, key=lambda one: negative_log_likelihood(scores[one], y, "softmax"))


def _best(ways: dict[str, _Way], y: np.ndarray) -> str:
    """The usual way, unless another has clearly more examples right.

    why not simply the most: settings of each way were chosen on the same examples, and of few
    examples the best of five ways is mostly luck (docs/experiments.md).
    """
    logits = {name: way.held_out for name, way in ways.items() if way.held_out is not None}
    if not logits:
        return DEFAULT_WAY
    right = {name: (some.argmax(axis=1) == y).astype(float) for name, some in logits.items()}
    best = max(right, key=lambda name: right[name].sum())
    return best if is_clear(right[best] - right[DEFAULT_WAY]) else DEFAULT_WAY


def _figures(logits: np.ndarray | None, y: np.ndarray) -> dict[str, Any] | None:
    if logits is None or not len(y):
        return None
    correct = int((logits.argmax(axis=1) == y).sum())
    loss = negative_log_likelihood(logits, y, "softmax")
    return {"correct": correct, "count": len(y), "accuracy": correct / len(y), "loss": loss}


def _vectors(model: Any, examples: Examples, progress: bool) -> np.ndarray:
    pictures, targets = examples
    if not (isinstance(pictures, np.ndarray) and pictures.ndim == 2):
        pictures = model.embed_images(pictures, progress=progress)
    vectors = expect_vectors(pictures, model.embed_dim)
    if len(vectors) != len(targets) or not len(targets):
        raise InputError(f"got {len(vectors)} pictures and {len(targets)} labels, wanted as many")
    return vectors
