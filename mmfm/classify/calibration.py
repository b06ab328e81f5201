"""Probabilities that mean what they say: one temperature, and for sigmoids a bias, by likelihood.

Guo et al., arXiv:1706.04599 (temperature, expected calibration error); the bias is Platt's, 1999.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmfm.errors import InputError

LOSSES = ("softmax", "sigmoid")
BINS = 15
_LEAST, _MOST = 1e-4, 1e4  # of what logits are multiplied with
_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """logits / temperature + bias. The order of labels never changes: temperature > 0."""

    temperature: float = 1.0
    bias: float = 0.0

    @classmethod
    def fit(cls, logits: np.ndarray, targets: np.ndarray, loss: str = "softmax") -> Calibration:
        """The most likely one. logits: (N, L); targets: (N,) numbers of the right labels.

        softmax: temperature alone (a bias would change nothing). sigmoid: both, each label against
        the rest. Where the logits are always right, or always wrong, the likelihood has no
        maximum; the temperature then ends where numbers show no gain, or at 1e-4 or 1e4.

        Raises InputError on shapes that do not fit.
        """
        logits, targets = _checked(logits, targets, loss)
        fitted = _softmax_scale(logits, targets) if loss == "softmax" else _platt(logits, targets)
        scale, bias = fitted
        return cls(1 / scale, bias)

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """(N, L) -> (N, L), same type."""
        return (np.asarray(logits) / self.temperature + self.bias).astype(logits.dtype)


def probabilities(logits: np.ndarray, loss: str) -> np.ndarray:
    """(N, L) float logits -> probabilities: shared by the labels, or each for itself."""
    if loss == "sigmoid":
        return (0.5 * (1 + np.tanh(0.5 * logits))).astype(logits.dtype)  # never overflows
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray, loss: str) -> float:
    """Mean over the N rows, in nats; sigmoid: of the sum over labels."""
    logits, targets = _checked(logits, targets, loss)
    own = logits[np.arange(len(targets)), targets]
    if loss == "softmax":
        return float(np.mean(np.logaddexp.reduce(logits, axis=1) - own))
    return float(np.mean(np.logaddexp(0, logits).sum(axis=1) - own))


def expected_calibration_error(chances: np.ndarray, targets: np.ndarray, bins: int = BINS) -> float:
    """|share right - mean confidence| over `bins` equal steps of confidence, weighted by rows.

    chances: (N, L); the confidence of a row is its largest chance. In [0, 1], 0 is calibrated.
    """
    best = chances.argmax(axis=1)
    confidence = chances[np.arange(len(best)), best].astype(np.float64)
    gap = (best == np.asarray(targets)) - confidence
    places = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    return float(np.abs(np.bincount(places, gap, bins)).sum() / len(best))


def _softmax_scale(logits: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """The likelihood is concave in the scale: Newton's steps, kept inside a shrinking bracket."""
    logits = logits - logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(targets)), targets].mean()
    low, high, scale = _LEAST, _MOST, 1.0
    for _ in range(_STEPS):
        chances = probabilities(scale * logits, "softmax")
        means = (chances * logits).sum(axis=1)
        slope = means.mean() - own
        bend = ((chances * logits**2).sum(axis=1) - means**2).mean()
        low, high = (low, scale) if slope > 0 else (scale, high)
        new = scale - slope / bend if bend > 0 else np.inf
        if not low < new < high:
            new = float(np.sqrt(low * high))
        if abs(new / scale - 1) < 1e-9:
            break
        scale = new
    return float(scale), 0.0


def _platt(logits: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Newton's method on (scale, bias), steps halved until the likelihood rises."""
    right = np.zeros(logits.shape)
    right[np.arange(len(targets)), targets] = 1

    def cost(point: np.ndarray) -> float:
        moved = point[0] * logits + point[1]
        return float((np.logaddexp(0, moved) - right * moved).mean())

    point = np.array([1.0, 0.0])
    now = cost(point)
    for _ in range(_STEPS):
        chances = probabilities(point[0] * logits + point[1], "sigmoid")
        error, spread = chances - right, chances * (1 - chances)
        slope = np.array([(error * logits).mean(), error.mean()])
        cross = (spread * logits).mean()
        bend = np.array([[(spread * logits**2).mean(), cross], [cross, spread.mean()]])
        step = np.linalg.lstsq(bend + 1e-12 * np.eye(2), slope, rcond=None)[0]
        for _ in range(40):
            new = point - step
            inside = _LEAST <= new[0] <= _MOST
            if inside and cost(new) <= now:
                break
            step = step / 2
        else:
            break
        if now - cost(new) < 1e-13 * max(1.0, now):
            break
        point, now = new, cost(new)
    return float(point[0]), float(point[1])


def _checked(logits: np.ndarray, targets: np.ndarray, loss: str) -> tuple[np.ndarray, np.ndarray]:
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets)
    if loss not in LOSSES:
        raise InputError(f"loss is {loss!r}, wanted softmax or sigmoid")
    if logits.ndim != 2 or targets.shape != logits.shape[:1] or not len(targets):
        raise InputError(
            f"got logits {logits.shape} and targets {targets.shape}, wanted (N, L) and (N,), N > 0"
        )
    if not np.isfinite(logits).all() or targets.min() < 0 or targets.max() >= logits.shape[1]:
        raise InputError("logits must be finite, and targets numbers of their columns")
    return logits, targets
