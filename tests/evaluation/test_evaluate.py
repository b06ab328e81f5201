"""The whole evaluation with two models that need no weights: one that knows, one that guesses."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mmfm.data.sample import Sample
from mmfm.errors import DataError, InputError
from mmfm.evaluation import evaluate
from mmfm.evaluation.captioning import caption_figures
from mmfm.evaluation.zero_shot import top_k_accuracy

COLORS, SHAPES = ("red", "green", "blue", "black", "white"), ("star", "moon", "boat", "tree")


def make_samples(num_each=3):
    rng = np.random.default_rng(0)
    samples = []
    for number in range(num_each):
        for color in COLORS:
            for shape in SHAPES:
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                name = f"{color} {shape}"
                key = f"set{number}:{color}-{shape}"
                meta = {"key": key, "name": name, "category": shape}
                captions = (name, f"a flat drawing of {name}")
                samples.append(Sample(key, file.getvalue(), captions, meta))
    return samples


class Oracle:
    """Answers by looking the picture up."""

    backbone_hash = "0" * 64

    def __init__(self, samples):
        self.by_image = {sample.image: sample for sample in samples}
        self.vectors = {}

    def vector(self, text):
        fresh = np.random.default_rng(len(self.vectors)).normal(size=64)
        return self.vectors.setdefault(text, fresh / np.linalg.norm(fresh))

    def embed_texts(self, texts, precision="auto", progress=False):
        return np.stack([self.vector(text) for text in texts]).astype(np.float32)

    def embed_images(self, images, precision="auto", progress=False):
        return self.embed_texts([self.by_image[image].captions[0] for image in images])

    def zero_shot_head(self, labels, templates=None):
        category = {s.captions[0]: s.meta["category"] for s in self.by_image.values()}

        def head(vectors):
            names = list(self.vectors)
            best = (vectors @ np.stack(list(self.vectors.values())).T).argmax(axis=1)
            return np.array([[float(category[names[b]] == one) for one in labels] for b in best])

        return head

    def caption(self, images, ports="both", progress=False):
        return [self.by_image[image].captions[0].upper() for image in images]

    def reconstruct(self, images):
        return [Image.open(io.BytesIO(image)) for image in images]


class Guesser(Oracle):
    """Never looks."""

    def embed_images(self, images, precision="auto", progress=False):
        vectors = np.random.default_rng(9).normal(size=(len(images), 64)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def zero_shot_head(self, labels, templates=None):
        return lambda vectors: np.full((len(vectors), len(labels)), 1 / len(labels))

    def caption(self, images, ports="both", progress=False):
        return ["a blurry thing"] * len(images)

    def reconstruct(self, images):
        return [Image.new("RGB", (16, 16), (128, 128, 128)) for _ in images]


def test_one_that_knows_everything_scores_best():
    samples = make_samples()
    figures = evaluate(Oracle(samples), samples)
    assert figures["data"]["num_samples"] == figures["retrieval"]["gallery"] == 60
    assert figures["retrieval"]["num_captions"] == 20
    assert figures["retrieval"]["text_to_image_recall@1"] == 1
    assert figures["retrieval"]["image_to_text_recall@1"] == 1
    assert figures["retrieval"]["text_to_image_recall@1_chance"] == pytest.approx(3 / 60)
    assert figures["zero_shot"] == {
        "num_images": 60,
        "num_labels": 4,
        "top1": 1,
        "top5": 1,
        "mean_per_class_recall": 1,
        "calibration_error": 0,
        "chance": 0.25,
        "majority": 0.25,
    }
    captioning = figures["captioning"]
    assert captioning["exact"] == captioning["exact_name"] == captioning["token_f1"] == 1
    assert captioning["num_distinct"] == 20
    assert captioning["token_f1_shuffled"] < 0.6
    assert figures["reconstruction"]["psnr"] == 100
    assert figures["reconstruction"]["ssim"] == pytest.approx(1)


def test_one_that_guesses_scores_chance():
    samples = make_samples()
    figures = evaluate(Guesser(samples), samples)
    retrieval = figures["retrieval"]
    assert retrieval["text_to_image_recall@10"] < retrieval["text_to_image_recall@10_chance"] + 0.3
    assert figures["zero_shot"]["top1"] == 0  # ties count against it
    captioning = figures["captioning"]
    assert captioning["exact"] == captioning["token_f1_name"] == captioning["cider_d"] == 0
    reconstruction = figures["reconstruction"]
    assert reconstruction["psnr"] == pytest.approx(reconstruction["psnr_flat"], abs=0.2)


def test_figures_are_json_and_repeat_with_the_seed():
    samples = make_samples()
    model = Oracle(samples)

    def run(**how):
        return json.loads(json.dumps(evaluate(model, samples, **how)))

    once = run(gallery=10, limit=30, seed=4)
    assert once == run(gallery=10, limit=30, seed=4)
    assert once["data"] == {**once["data"], "num_samples": 30, "num_given": 60}
    assert once["retrieval"]["gallery"] == 10
    assert once["data"]["sha256"] != run(limit=30, seed=5)["data"]["sha256"]
    assert run(parts=["captioning"]).keys() == {"data", "seed", "backbone_hash", "captioning"}


def test_the_order_of_the_samples_does_not_change_the_identity_of_the_data():
    samples = make_samples()
    model = Oracle(samples)
    one = evaluate(model, samples, parts=[])
    assert evaluate(model, samples[::-1], parts=[]) == one


def test_wrong_calls_are_refused():
    samples = make_samples(1)
    model = Oracle(samples)
    with pytest.raises(DataError, match="needs samples"):
        evaluate(model, [])
    with pytest.raises(InputError, match="no part 'speed'"):
        evaluate(model, samples, parts=["speed"])
    with pytest.raises(InputError, match="limit is 0"):
        evaluate(model, samples, limit=0)
    bare = [Sample(s.key, s.image) for s in samples]
    for part in ("retrieval", "captioning"):
        with pytest.raises(DataError, match="with captions"):
            evaluate(model, bare, parts=[part])
    assert evaluate(model, bare, parts=["zero_shot"])["zero_shot"]["top1"] is None


def test_caption_figures_count_the_name_and_the_references_apart():
    figures = caption_figures(
        ["red apple", "a drawing of a bus"],
        ["red apple", "bus"],
        [["red apple", "fruit"], ["bus", "a drawing of a bus"]],
    )
    assert figures["exact"] == 1
    assert figures["exact_name"] == 0.5
    assert figures["token_f1"] == 1
    assert figures["token_f1_name"] == pytest.approx((1 + 1 / 3) / 2)
    assert figures["token_f1_shuffled"] == 0


def test_top_k_accuracy_worked_example():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])
    targets = np.array([1, 1, 0])
    assert top_k_accuracy(scores, targets, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, targets, 2) == 1
    with pytest.raises(InputError, match="wanted"):
        top_k_accuracy(scores, targets[:2], 1)
