"""Search in 200,000 vectors: `FlatIndex.search`, ids included, against faiss IndexFlatIP.

Single queries and batches of 256, like the rows and from elsewhere, as texts are in an index of
pictures. Which vectors:

- "captions": of a real model, as many made captions through its text tower; queries are captions
  that are not among them, and drawings. The model that ships is 192 wide.
- "spectrum": made up, 512 wide, Gaussian without any clusters, which is hard. Half of the squared
  length is common to all; the variances fall as (i + 12)^-1 exp(-(i / 300)^2), so that 32, 64, 128
  and 256 components have 44, 61, 80 and 94% of them. We take that for about what CLIP ViT-B/32 has;
  no published table of it was at hand. Queries from elsewhere have another common part.
- `--vectors` and `--queries`: two .npy files of your own, (N, D) and (Q, D).

recall@10 counts hits as good as the worst right one; bytes are what the folder holds for a row.
faiss is told to multiply matrices for a batch of any width; since 1.15 it does so by itself from
128,000 numbers in the queries on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import interleave, report, versions
from benchmarks.embed_texts import captions
from mmfm.preprocess.images import load_image

K = 10
BATCH = 256
SINGLES = 32  # queries of a round
RECALL = {"one by one": 0.99, f"batch of {BATCH}": 0.999}
WIDTH = 512


class Case(NamedTuple):
    """Rows to search in, and queries (256, D) by what they are."""

    name: str
    rows: np.ndarray
    queries: dict[str, np.ndarray]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def of_the_model(name: str, count: int) -> Case:
    """Captions and drawings through both towers."""
    import torch

    import mmfm
    from mmfm.cli import gallery

    torch.set_num_threads(1)
    model = mmfm.load(name, device="cpu")
    texts = model.embed_texts(captions(count + BATCH))
    pictures = model.embed_images(parts_of([drawing.path for drawing in gallery.read()], BATCH))
    return Case(
        f"{model.name}'s captions", texts[:count], {"captions": texts[count:], "drawings": pictures}
    )


def parts_of(paths: list[Path], count: int) -> list[Image.Image]:
    """Squares cut out of the pictures, anywhere."""
    chance, parts = np.random.default_rng(0), []
    for path in islice(cycle(paths), count):
        picture = load_image(path)
        side = chance.uniform(0.5, 1) * min(picture.size)
        left, top = (chance.uniform(0, length - side) for length in picture.size)
        parts.append(picture.crop(tuple(map(round, (left, top, left + side, top + side)))))
    return parts


def of_a_spectrum(count: int) -> Case:
    chance = np.random.default_rng(0)
    place = np.arange(WIDTH)
    variance = np.exp(-((place / 300) ** 2)) / (place + 12) + 2e-5
    scale = np.sqrt(0.5 * variance / variance.sum()).astype(np.float32)
    turn = np.linalg.qr(chance.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    here, there = np.zeros((2, WIDTH), np.float32)
    here[5], there[[5, 40, 400]] = 0.5**0.5, (0.35, -0.3, 0.5)

    def draw(number: int, common: np.ndarray) -> np.ndarray:
        rows = chance.standard_normal((number, WIDTH), dtype=np.float32)
        rows *= scale
        return unit((rows + common) @ turn)

    queries = {"like rows": draw(BATCH, here), "elsewhere": draw(BATCH, there)}
    return Case("CLIP-like spectrum", draw(count, here), queries)


def of_files(vectors: Path, queries: Path, count: int) -> Case:
    rows, asked = (unit(np.load(path)) for path in (vectors, queries))
    if rows.shape[1:] != asked.shape[1:] or len(asked) < BATCH:
        sys.exit(
            f"{queries} has the shape {asked.shape}, wanted ({BATCH} or more, {rows.shape[1]})"
        )
    return Case(vectors.name, rows[:count], {queries.name: asked[:BATCH]})


def compare(case: Case, place: Path, rounds: int) -> None:
    import faiss

    from mmfm.index import FlatIndex

    count, dim = case.rows.shape
    faiss.omp_set_num_threads(1)
    faiss.cvar.distance_compute_blas_threshold = 20 * dim  # queries times width
    peer = faiss.IndexFlatIP(dim)
    peer.add(case.rows)
    ours = FlatIndex.create(place, dim)
    ours.add([f"{row:07}" for row in range(count)], case.rows)
    size = sum(file.stat().st_size for file in place.rglob("*")) / count
    for kind, queries in case.queries.items():
        right = ours.search(queries, K, exact=True).scores
        for way, step in zip(RECALL, (1, BATCH)):
            asked = queries if step > 1 else queries[:SINGLES]
            measured = interleave(
                partial(search, ours, asked, step), partial(search, peer, asked, step), rounds
            )
            every = np.concatenate([found.scores for found in search(ours, queries, step)])
            gate = quality(every, right, queries, peer)
            report(
                "index_search", f"{case.name} {count:,} x {dim}, {kind}, {way}", measured,
                amount=len(asked), unit="queries",
                gate={**gate, "bytes": round(size)},
                equal=gate["recall@10"] >= RECALL[way] and gate["score_difference"] <= 1e-5,
                peer_version=versions("faiss-cpu"),
            )  # fmt: skip


def search(engine: Any, queries: np.ndarray, step: int) -> list[Any]:
    """All queries, so many at a time."""
    return [engine.search(queries[at : at + step], K) for at in range(0, len(queries), step)]


def quality(found: np.ndarray, right: np.ndarray, queries: np.ndarray, peer: Any) -> dict:
    """recall@10, and how far our exact scores are from faiss's."""
    theirs, _ = peer.search(queries, found.shape[1])
    return {
        "recall@10": round(float(np.mean(found >= right[:, -1:] - 1e-6)), 5),
        "score_difference": float(f"{np.abs(right - theirs).max():.2g}"),
    }


def cases(given: argparse.Namespace) -> Iterator[Case]:
    if given.vectors:
        yield of_files(given.vectors, given.queries, given.rows)
        return
    yield of_a_spectrum(given.rows)
    yield of_the_model(given.model, given.rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini", help="a model that ships, or a bundle folder")
    parser.add_argument("--rows", type=int, default=200_000, help="to search in (default: 200000)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: 5)")
    parser.add_argument("--vectors", type=Path, help="rows of your own, .npy; needs --queries")
    parser.add_argument("--queries", type=Path, help=f"at least {BATCH} of your own, .npy")
    given = parser.parse_args()
    if min(given.rows, given.rounds) < 1 or (given.vectors is None) != (given.queries is None):
        parser.error("wanted --rows and --rounds of at least 1, and --vectors with --queries")
    for one in cases(given):
        with TemporaryDirectory() as name:
            compare(one, Path(name) / "index", given.rounds)
