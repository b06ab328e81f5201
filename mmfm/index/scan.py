"""Exact search: every row is compared, in blocks, so that memory stays bounded whatever the size.

A score is one float32 sum over a row, taken in the same order for every row: equal vectors have
equal scores wherever they stand, which a matrix product does not promise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_QUERIES = 256  # at a time
_SCORES = 1 << 20  # of a block, all queries together: 4 MB, which stays in the cache
_GATHERED = 1 << 22  # numbers gathered at a time for exact scores: 16 MB
_ROUNDING = 1e-5  # a float32 product of unit vectors, in any order of sums, is nearer than this
_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))

Hits = tuple[np.ndarray, np.ndarray, np.ndarray]  # number of the query, row, score; same lengths


def exact_top(
    vectors: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Of every query the k rows with the largest dot products, best first, equal ones by row.

    vectors: (N, D) float32 unit rows, such as a memory map. queries: (Q, D) float32. allowed: (N,)
    bool, the rows that may be found; None means all. Returns rows (Q, C) int64 and scores (Q, C)
    float32 with C = min(k, N); where fewer than C rows are allowed, the rest is -1 and -inf.
    """
    rows = np.empty((len(queries), min(k, len(vectors))), np.int64)
    scores = np.empty(rows.shape, np.float32)
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        rows[part], scores[part] = _top_of_some(vectors, queries[part], rows.shape[1], allowed)
    return rows, scores


def row_scores(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(R,) float32: dot products of a query (D,) and some rows, the same as `exact_top` has."""
    scores = np.empty(len(rows), np.float32)
    step = max(1, _GATHERED // max(1, vectors.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        np.vecdot(vectors.take(rows[part], axis=0, mode="clip"), query, out=scores[part])
    return scores


def best_of_one(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of the largest scores, best first, equal ones by row; wants at least k."""
    near = np.flatnonzero(scores >= np.partition(scores, -k)[-k]) if k else slice(0)
    rows, scores = rows[near], scores[near]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def _best(hits: Hits, num_queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits in any order -> rows and scores (num_queries, k), as `exact_top` has them."""
    query, row, score = hits
    rows = np.full((num_queries, k), -1, np.int64)
    scores = np.full((num_queries, k), -np.inf, np.float32)
    order = np.lexsort((row, -score, query))
    query, row, score = query[order], row[order], score[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)  # place among its query's hits
    kept = rank < k
    rows[query[kept], rank[kept]] = row[kept]
    scores[query[kept], rank[kept]] = score[kept]
    return rows, scores


def _top_of_some(
    vectors: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    rows, scores = _best(_NOTHING, len(queries), k)
    if k == 0:
        return rows, scores
    margin = _ROUNDING * np.linalg.norm(queries, axis=1)
    for start, inside, block in _blocks(vectors, allowed, _SCORES // len(queries)):
        rough = queries @ block.T
        floor = scores[:, -1] - margin
        flat = np.flatnonzero(rough > floor[:, None])
        if k < len(block) and len(flat) > 8 * k * len(queries):
            kth = np.partition(rough, -k, axis=1)[:, -k]
            flat = np.flatnonzero(rough >= np.maximum(floor, kth - 2 * margin)[:, None])
        if not len(flat):
            continue
        query, place = np.divmod(flat, len(block))
        fresh = _pair_scores(block, queries, query, place)
        row = start + (place if inside is None else inside[place])
        old = np.nonzero(rows >= 0)
        hits = (
            np.concatenate([old[0], query]),
            np.concatenate([rows[old], row]),
            np.concatenate([scores[old], fresh]),
        )
        rows, scores = _best(hits, len(queries), k)
    return rows, scores


def _pair_scores(
    vectors: np.ndarray, queries: np.ndarray, query: np.ndarray, row: np.ndarray
) -> np.ndarray:
    scores = np.empty(len(row), np.float32)
    step = max(1, _GATHERED // max(1, vectors.shape[1]))
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        pair = (vectors.take(row[part], axis=0), queries.take(query[part], axis=0))
        np.vecdot(*pair, out=scores[part])
    return scores


def _blocks(
    vectors: np.ndarray, allowed: np.ndarray | None, size: int
) -> Iterator[tuple[int, np.ndarray | None, np.ndarray]]:
    """Row number of a block's start, places of its rows from there (None: all), their vectors."""
    for start in range(0, len(vectors), size):
        block = vectors[start : start + size]
        if allowed is None or allowed[start : start + size].all():
            yield start, None, block
        elif allowed[start : start + size].any():
            inside = np.flatnonzero(allowed[start : start + size])
            yield start, inside, block[inside]
