"""A linear classifier on vectors: made from words (zero_shot) or examples (linear_probe)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mmfm.classify.calibration import LOSSES, Calibration, probabilities
from mmfm.durable import replacing
from mmfm.errors import DataError, InputError, OutputError

FORMAT = "mmfm-head-1"


class Classifier(Protocol):
    """What names vectors: labels, and of (N, D) unit vectors their (N, L) probabilities.

    space: `backbone_hash` of the model whose vectors it reads, or "" when not known.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def space(self) -> str: ...

    def __call__(self, vectors: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Chances of labels: softmax or sigmoid of `vectors @ weight.T + bias`.

    labels: L names. weight: (L, D), bias: (L,), float32. loss: "softmax" (the labels share one
    probability) or "sigmoid" (each has its own). space: `backbone_hash` of the model whose vectors
    it reads, or "" when not known. notes: how it was made, plain JSON.
    """

    labels: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    loss: str = "softmax"
    space: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.weight.ndim != 2 or len(self.weight) != count or self.bias.shape != (count,):
            raise InputError(
                f"got {count} labels, weights {self.weight.shape} and biases {self.bias.shape}, "
                "wanted L, (L, D) and (L,)"
            )
        if self.loss not in LOSSES or not count or len(set(self.labels)) < count:
            raise InputError("a head needs different labels, at least one, and softmax or sigmoid")

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) unit vectors -> (N, L) float32."""
        return expect_vectors(vectors, self.weight.shape[1]) @ self.weight.T + self.bias

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """(N, D) unit vectors -> (N, L) float32 probabilities."""
        return probabilities(self.logits(vectors), self.loss)

    def predict(self, vectors: np.ndarray) -> list[str]:
        """The best label of each vector."""
        return [self.labels[best] for best in self.logits(vectors).argmax(axis=1)]

    def calibrated(self, vectors: np.ndarray, targets: Sequence[str]) -> LinearHead:
        """The same order of labels, with probabilities fitted to labelled vectors.

        Use vectors that the head was not fitted on. Raises InputError on unknown labels.
        """
        fitted = Calibration.fit(self.logits(vectors), numbers(targets, self.labels), self.loss)
        notes = {"temperature": fitted.temperature, "bias": fitted.bias, "count": len(targets)}
        return replace(
            self,
            weight=(self.weight / fitted.temperature).astype(np.float32),
            bias=fitted(self.bias),
            notes={**self.notes, "calibration": notes},
        )

    def blended(self, other: LinearHead, share: float) -> LinearHead:
        """`share` of the other's weights and the rest of ours (WiSE-FT, arXiv:2109.01903).

        Raises InputError when labels or widths differ, or the share is not in [0, 1].
        """
        if other.labels != self.labels or other.weight.shape != self.weight.shape:
            raise InputError("only heads of the same labels and width can be blended")
        if not 0 <= share <= 1:
            raise InputError(f"share is {share}, wanted 0 to 1")
        return replace(
            self,
            weight=((1 - share) * self.weight + share * other.weight).astype(np.float32),
            bias=((1 - share) * self.bias + share * other.bias).astype(np.float32),
            notes={"blend": [self.notes, other.notes], "share": share},
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write one safetensors file, its labels and notes as JSON in the header."""
        from safetensors.numpy import save

        known = {"labels": list(self.labels), "loss": self.loss, "space": self.space,
                 "notes": self.notes}  # fmt: skip
        data = save(
            {"weight": np.ascontiguousarray(self.weight), "bias": self.bias},
            metadata={"format": FORMAT, "head": json.dumps(known)},
        )
        try:
            with replacing(path) as file:
                file.write(data)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}; choose another") from error
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LinearHead:
        """Read what `save` wrote. Raises DataError when it is no head or is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                told = file.metadata() or {}
                if told.get("format") != FORMAT:
                    raise DataError(f"{path} is not a head of the format {FORMAT}")
                known = json.loads(told["head"])
                arrays = {name: file.get_tensor(name) for name in ("weight", "bias")}
            return cls(tuple(known["labels"]), arrays["weight"], arrays["bias"], known["loss"],
                       known["space"], known["notes"])  # fmt: skip
        except DataError:
            raise
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} cannot be read as a head ({error}); make it again") from error


def numbers(targets: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """(N,) int64: the place of each target among the labels. Raises InputError on others."""
    places = {label: place for place, label in enumerate(labels)}
    unknown = sorted({str(target) for target in targets if target not in places})
    if unknown:
        raise InputError(
            f"{len(unknown)} labels are unknown to the head, such as {unknown[0]!r}; it has "
            f"{len(labels)}, such as {labels[0]!r}"
        )
    return np.array([places[target] for target in targets], np.int64)


def expect_vectors(vectors: np.ndarray, dim: int | None = None) -> np.ndarray:
    """As float32. Raises InputError unless (N, D), finite, and as wide as wanted."""
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or (dim is not None and vectors.shape[1] != dim):
        raise InputError(f"got vectors {vectors.shape}, wanted (N, {'D' if dim is None else dim})")
    if not np.isfinite(vectors).all():
        raise InputError("a vector holds NaN or infinity; embed it again")
    return vectors
