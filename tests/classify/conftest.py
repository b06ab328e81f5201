"""Unit vectors of three kinds, well apart."""

import numpy as np
import pytest

NAMES = ("boat", "moon", "tree")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def kinds():
    """kinds(count, seed=0, noise=0.3): (N, 16) unit vectors and their names, in mixed order."""
    centres = np.random.default_rng(99).normal(size=(3, 16))

    def make(count, seed=0, noise=0.3):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(np.repeat(np.arange(3), count))
        vectors = unit(centres[rows] + noise * rng.normal(size=(len(rows), 16)))
        return vectors, [NAMES[row] for row in rows]

    return make
