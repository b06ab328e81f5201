"""Ten nearest drawings ordered by the caption head: against the calls of the model themselves."""

import numpy as np
import pytest

from mmfm.data.sample import Sample
from mmfm.errors import DataError
from mmfm.evaluation import evaluate


def test_it_is_search_and_then_caption_scores(tiny_model, shape_samples):
    found = evaluate(tiny_model, shape_samples, parts=["reranking"])["reranking"]
    names = sorted({s.meta["name"] for s in shape_samples})
    images = [s.image for s in shape_samples]
    scores = tiny_model.embed_texts(names) @ tiny_model.embed_images(images).T
    hits, before = [], []
    for name, row in zip(names, scores):
        near = np.argsort(-row, kind="stable")[:10]
        likely = tiny_model.caption_score([images[place] for place in near], [name] * 10)
        hits.append(shape_samples[near[likely.argmax()]].meta["name"] == name)
        before.append(shape_samples[near[0]].meta["name"] == name)
    assert found["reranked_recall@1"] == np.mean(hits)
    assert found["recall@1"] == np.mean(before)
    assert (found["num_names"], found["gallery"], found["depth"]) == (4, 32, 10)
    assert found["within_depth"] >= max(found["recall@1"], found["reranked_recall@1"])


def test_toned_drawings_are_left_out(tiny_model, shape_samples):
    toned = [Sample(s.key, s.image, s.captions, {**s.meta, "skin_tone": "dark"})
             for s in shape_samples]  # fmt: skip
    both = [*toned[:5], *shape_samples]
    found = [evaluate(tiny_model, some, parts=["reranking"])["reranking"]
             for some in (shape_samples, both)]  # fmt: skip
    assert found[0] == found[1]
    with pytest.raises(DataError, match="reranking"):
        evaluate(tiny_model, toned, parts=["reranking"])
