"""How far apart two sets of pictures are, in the features of a stated extractor: FID and CMMD.

Both compare sets, so neither says whether a picture is of what was asked for. Computed in float64.
"""

from __future__ import annotations

import numpy as np

from mmfm.errors import InputError

CMMD_SIGMA = 10.0  # bandwidth of the kernel on vectors of length 1
CMMD_SCALE = 1000.0  # so that figures are easy to read


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to features (N, E) and (M, E) (arXiv:1706.08500).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)); covariances with N - 1. Not negative. It
    depends on N and M, so compare only figures of equal counts. Raises InputError for fewer than
    two rows, different widths, or numbers that are not finite.
    """
    a, b = _pair(a, b, 2)
    difference = a.mean(axis=0) - b.mean(axis=0)
    root = _root(_covariance(a))
    # (S_a S_b)^(1/2) has the trace of (R S_b R)^(1/2), R the root of S_a, which is symmetric
    inner = np.linalg.eigvalsh(root @ _covariance(b) @ root).clip(min=0)
    spread = (root * root).sum() + np.trace(_covariance(b)) - 2 * np.sqrt(inner).sum()
    return max(0.0, float(difference @ difference + spread))


def cmmd(a: np.ndarray, b: np.ndarray) -> float:
    """1000 times the squared maximum mean discrepancy of features (N, E) and (M, E), scaled to
    length 1, under the kernel exp(-|x - y|^2 / (2 * 10^2)) (CMMD, arXiv:2401.09603).

    Means over all pairs, a row with itself included, as in the authors' published code: equal
    sets give 0, and it is not negative. Raises InputError as `fid` does.
    """
    a, b = (_unit(x) for x in _pair(a, b, 1))
    within = _kernel(a, a).mean() + _kernel(b, b).mean()
    return max(0.0, CMMD_SCALE * float(within - 2 * _kernel(a, b).mean()))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return np.exp(-squares.clip(min=0) / (2 * CMMD_SIGMA**2))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _covariance(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(axis=0)
    return centred.T @ centred / (len(x) - 1)


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def _pair(a: np.ndarray, b: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < least:
        raise InputError(
            f"got features {a.shape} and {b.shape}, wanted (N, E) and (M, E) with at least {least} "
            "rows each"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("the features hold numbers that are not finite; look at the pictures")
    return a, b
