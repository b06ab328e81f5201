"""Codes equal sentence-transformers' own, number by number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfm.errors import InputError
from mmfm.sentence.quantise import PRECISIONS, quantise


def unit(seed, count, dim):
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 1000), st.integers(2, 40), st.integers(1, 70), st.sampled_from(PRECISIONS),
    st.booleans(),
)  # fmt: skip
def test_codes_are_theirs(seed, count, dim, precision, with_ranges):
    theirs = pytest.importorskip("sentence_transformers.util.quantization").quantize_embeddings
    vectors = unit(seed, count, dim)
    vectors[:, 0] = 0.25  # a dimension that says nothing
    ranges = np.stack([vectors.min(axis=0) / 2, vectors.max(axis=0) / 2]) if with_ranges else None
    ours = quantise(vectors, precision, ranges)
    wanted = theirs(vectors, precision, ranges)
    assert ours.dtype == wanted.dtype
    assert np.array_equal(ours, wanted)


def test_with_ranges_a_code_does_not_depend_on_the_others():
    vectors = unit(0, 20, 16)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    together = quantise(vectors, "int8", ranges)
    alone = [quantise(vectors[i : i + 1], "int8", ranges)[0] for i in range(20)]
    assert np.array_equal(together, alone)


def test_one_vector_has_no_range_and_unknown_precisions_have_no_meaning():
    for precision in ("int8", "uint8"):
        with pytest.raises(InputError, match="range of each dimension"):
            quantise(unit(0, 1, 8), precision)
    assert quantise(unit(0, 1, 8), "ubinary").shape == (1, 1)
    with pytest.raises(InputError, match="'int4'"):
        quantise(unit(0, 2, 8), "int4")
