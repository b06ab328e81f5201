"""Adapting words by examples: what is chosen, and that pictures held out have no say in it."""

import json

import numpy as np
import pytest

import mmfm
from mmfm.classify import LinearHead, adapt, choose_templates, tune_labels
from mmfm.classify.label_tuning import tuned_at
from mmfm.errors import InputError, TextError
from tests.classify.conftest import NAMES, unit

WAYS = ["zero-shot", "prompts", "class means", "label tuning", "linear probe"]


@pytest.fixture
def prior(kinds):
    """A head that knows the kinds roughly, as words do."""
    vectors, targets = kinds(40, seed=5)
    rows = [vectors[[t == name for t in targets]].mean(axis=0) for name in NAMES]
    rng = np.random.default_rng(7)
    weight = 10 * unit(np.array(rows) + 0.25 * rng.normal(size=(3, 16)))
    return LinearHead(NAMES, weight.astype(np.float32), np.zeros(3, np.float32))


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return mmfm.load(tiny_bundle, device="cpu")


def examples(count, seed, noise=0.4):
    """(N, 32) unit vectors of three kinds that the tiny model's words say nothing about."""
    centres = np.random.default_rng(99).normal(size=(3, 32))
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.repeat(np.arange(3), count))
    vectors = unit(centres[rows] + noise * rng.normal(size=(len(rows), 32)))
    return vectors, [NAMES[row] for row in rows]


# ------------------------------------------------------------------------------- label tuning


def test_no_step_is_the_prior_bit_for_bit(kinds, prior):
    made = tune_labels(*kinds(3), prior, steps=0)
    assert np.array_equal(made.weight, prior.weight) and np.array_equal(made.bias, prior.bias)


def test_steps_lower_the_loss_and_keep_the_lengths(kinds, prior):
    vectors, targets = kinds(3)
    y = np.array([NAMES.index(t) for t in targets])
    losses = [
        -np.log(head(vectors)[np.arange(len(y)), y]).mean()
        for head in tuned_at(vectors, targets, prior, [0, 5, 40])
    ]
    assert losses[0] > losses[1] > losses[2]
    made = tune_labels(vectors, targets, prior, steps=40)
    lengths = np.linalg.norm(made.weight, axis=1), np.linalg.norm(prior.weight, axis=1)
    np.testing.assert_allclose(*lengths, rtol=1e-6)
    assert not np.allclose(made.weight, prior.weight)


def test_one_run_with_marks_is_several_runs(kinds, prior):
    vectors, targets = kinds(3)
    together = tuned_at(vectors, targets, prior, [3, 9])
    for steps, head in zip((3, 9), together):
        alone = tune_labels(vectors, targets, prior, steps=steps)
        assert np.array_equal(head.weight, alone.weight)


def test_the_order_of_examples_changes_nothing(kinds, prior):
    vectors, targets = kinds(4)
    order = np.random.default_rng(3).permutation(len(targets))
    one = tune_labels(vectors, targets, prior, steps=20)
    other = tune_labels(vectors[order], [targets[i] for i in order], prior, steps=20)
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-6)


def test_labels_in_another_order_are_columns_in_another_order(kinds, prior):
    vectors, targets = kinds(4)
    order = [2, 0, 1]
    turned = LinearHead(tuple(NAMES[i] for i in order), prior.weight[order], prior.bias[order])
    one = tune_labels(vectors, targets, prior, steps=20)
    other = tune_labels(vectors, targets, turned, steps=20)
    np.testing.assert_allclose(one.logits(vectors)[:, order], other.logits(vectors), atol=1e-5)


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"steps": 1, "learning_rate": 0}])
def test_impossible_settings_are_refused(kinds, prior, wrong):
    with pytest.raises(InputError, match="wanted 0 or more"):
        tune_labels(*kinds(2), prior, **wrong)


# ---------------------------------------------------------------------------------- templates


def embedder(kinds, alone):
    """Words whose vectors are right in the template "right:" and nearly nonsense in any other.

    alone: the template that a bare name stands for.
    """
    vectors, targets = kinds(40, seed=5)
    own = {name: vectors[[t == name for t in targets]].mean(axis=0) for name in NAMES}

    def embed(texts):
        made = []
        for text in texts:
            template, _, name = (text if ":" in text else f"{alone}:{text}").partition(":")
            noise = np.random.default_rng(sum(map(ord, template + name))).normal(size=16)
            made.append(own[name] + (0.05 if template == "right" else 1.0) * noise)
        return unit(np.array(made))

    return embed


def test_the_template_that_fits_is_chosen(kinds):
    pool = ["odd:{}", "right:{}", "wrong:{}"]
    embed = embedder(kinds, alone="none")
    choice = choose_templates(*kinds(6), NAMES, embed, scale=20.0, pool=pool)
    assert choice.templates[0] == "right:{}"
    assert min(choice.losses[1:]) < choice.losses[0]


def test_the_words_alone_stay_where_nothing_is_better(kinds):
    embed = embedder(kinds, alone="right")
    choice = choose_templates(*kinds(6), NAMES, embed, scale=20.0, pool=["odd:{}", "far:{}"])
    assert choice.templates == ("{}",) and np.argmin(choice.losses) == 0


def test_templates_are_not_chosen_by_one_example(kinds):
    vectors, targets = kinds(1)
    embed = embedder(kinds, alone="none")
    choice = choose_templates(vectors[:1], targets[:1], NAMES, embed, scale=20.0, pool=["right:{}"])
    assert choice.templates == ("{}",)


# -------------------------------------------------------------------------------------- adapt


def test_every_way_is_measured_and_the_best_is_handed_back(model):
    figures, head = adapt(model, examples(8, 1), examples(20, 2))
    assert list(figures["ways"]) == WAYS and json.dumps(figures)
    assert (figures["labels"], figures["train"], figures["hold_out"]) == (3, 24, 60)
    for way in figures["ways"].values():
        assert way["hold_out"]["count"] == 60 and way["validated"]["count"] == 24
        assert way["hold_out"]["accuracy"] == way["hold_out"]["correct"] / 60
    chosen = figures["ways"][figures["chosen"]]
    assert chosen["hold_out"]["accuracy"] > figures["ways"]["zero-shot"]["hold_out"]["accuracy"]
    assert head.labels == NAMES and head.space == model.backbone_hash
    vectors, targets = examples(20, 2)
    right = sum(a == b for a, b in zip(head.predict(vectors), targets))
    assert right == chosen["hold_out"]["correct"]


def test_pictures_held_out_have_no_say(model):
    one, head = adapt(model, examples(6, 1), examples(20, 2))
    other, again = adapt(model, examples(6, 1), (examples(20, 3)[0], ["boat"] * 60))
    alone, bare = adapt(model, examples(6, 1))
    for figures in (one, other, alone):
        figures.pop("hold_out")
        for way in figures["ways"].values():
            way.pop("hold_out", None)
    assert one == other == alone
    for made in (again, bare):
        assert np.array_equal(made.weight, head.weight) and np.array_equal(made.bias, head.bias)


def test_pictures_held_out_are_read_when_all_is_chosen(model, ellipses, monkeypatch):
    seen = []
    embed = model.embed_images
    monkeypatch.setattr(model, "embed_images", lambda p, **k: seen.append("pictures") or embed(p))
    texts = model.embed_texts
    monkeypatch.setattr(model, "embed_texts", lambda t, **k: seen.append("words") or texts(t, **k))
    adapt(model, (ellipses[:4], ["red", "blue"] * 2), (ellipses[4:], ["red"]))
    assert seen[0] == seen[-1] == "pictures" and seen.count("pictures") == 2


def test_the_order_of_examples_chooses_alike(model):
    vectors, targets = examples(8, 1, noise=0.2)
    order = np.random.default_rng(0).permutation(len(targets))
    one, _ = adapt(model, (vectors, targets), examples(20, 2))
    other, _ = adapt(model, (vectors[order], [targets[i] for i in order]), examples(20, 2))
    assert one["ways"]["zero-shot"]["hold_out"] == other["ways"]["zero-shot"]["hold_out"]


def test_one_example_a_label_takes_the_settings_that_were_measured(model):
    figures, _ = adapt(model, examples(1, 1), examples(20, 2))
    assert figures["chosen"] == "linear probe"
    assert all(way["validated"] is None for way in figures["ways"].values())
    accuracy = {name: way["hold_out"]["accuracy"] for name, way in figures["ways"].items()}
    assert accuracy["linear probe"] > accuracy["zero-shot"]


def test_the_head_is_what_classify_takes(model, ellipses, tmp_path):
    _, head = adapt(model, (ellipses[:4], ["red", "blue"] * 2))
    loaded = LinearHead.load(head.save(tmp_path / "head.safetensors"))
    assert np.array_equal(model.classify(ellipses, loaded), model.classify(ellipses, head))


@pytest.mark.parametrize(
    ("train", "hold_out", "told"),
    [
        ((np.eye(3, 32), ["a", "a", "a"]), None, "wanted two or more"),
        ((np.eye(3, 32), ["a", "b"]), None, "got 3 pictures and 2 labels"),
        ((np.eye(2, 32), ["a", "b"]), (np.eye(1, 32), ["c"]), "unknown to the head"),
        ((np.eye(2, 5), ["a", "b"]), None, r"wanted \(N, 32\)"),
    ],
)
def test_wrong_examples_are_refused(model, train, hold_out, told):
    with pytest.raises(InputError, match=told):
        adapt(model, train, hold_out)


def test_words_must_name_the_labels(model):
    with pytest.raises(InputError, match="unknown to the head"):
        adapt(model, (np.eye(2, 32), ["a", "b"]), words=["a", "c"])
    with pytest.raises(TextError, match="must hold"):
        adapt(model, (np.eye(2, 32), ["a", "b"]), templates=["no place"])
