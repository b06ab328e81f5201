"""Generators whose figures are known: real drawings, other prompts' pictures, a blank page."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from mmfm.config import DecoderConfig
from mmfm.errors import DataError, InputError
from mmfm.evaluation import Asking, evaluate, judge_generator
from mmfm.evaluation.cycle import Cycle
from mmfm.evaluation.generation import NUM_NOISES, Generation, drawn_by, seeds_of, shuffled
from tests.evaluation.conftest import SHAPES, drawing, shape_sample


def picture(sample):
    return Image.open(io.BytesIO(sample.image))


class Copier:
    """Gives the real drawings back, in the order in which they are asked for."""

    def __init__(self, samples):
        self.samples, self.asked = samples, []

    def __call__(self, prompts, seeds):
        self.asked.append((list(prompts), list(seeds)))
        return [picture(sample) for sample in self.samples[: len(prompts)]]


def test_real_drawings_get_the_ceiling(tiny_judge, shape_samples):
    figures = judge_generator(Copier(shape_samples), shape_samples, judge=tiny_judge)
    assert figures["num_pictures"] == 32
    assert figures["num_prompts"] == figures["num_classes"] == 4
    assert figures["real_top1"] > 0.8
    assert figures["share_of_real_top1"] == figures["share_of_real_top5"] == 1
    for name in ("top1", "top5", "probability"):
        assert figures[name] == pytest.approx(figures[f"real_{name}"])
    assert figures["fid"] == pytest.approx(0, abs=1e-6)
    assert figures["cmmd"] == pytest.approx(0, abs=1e-6)
    for name in ("fid", "cmmd"):
        assert figures[f"{name}_halves"] == pytest.approx(figures[f"{name}_halves_real"])
        assert figures[f"{name}_halves"] > figures[name]
    assert figures["judge_hash"] == tiny_judge.hash


def test_pictures_of_other_prompts_are_wrong_and_shuffled_ones_chance(tiny_judge, shape_samples):
    def other(prompts, seeds):
        names = [SHAPES[(SHAPES.index(prompt) + 1) % 4] for prompt in prompts]
        return [drawing(name, 2000 + place) for place, name in enumerate(names)]

    figures = judge_generator(other, shape_samples, judge=tiny_judge)
    assert figures["top1"] < 0.2 < 0.8 < figures["real_top1"]
    assert figures["top5"] == 1  # of four classes
    right = judge_generator(Copier(shape_samples), shape_samples, judge=tiny_judge)
    assert right["shuffled_top1"] < 0.2 < right["top1"]


def test_a_generator_that_draws_one_thing_is_far_away(tiny_judge, shape_samples):
    def blank(prompts, seeds):
        return [Image.new("RGB", (32, 32), "white")] * len(prompts)

    figures = judge_generator(blank, shape_samples, judge=tiny_judge)
    assert figures["top1"] <= 0.25
    for name in ("fid", "cmmd"):
        assert figures[f"{name}_halves"] > 2 * figures[f"{name}_halves_real"]


def test_only_known_names_are_asked_for_and_the_seed_chooses(tiny_judge, shape_samples):
    stranger = shape_sample("circle", 5, name="sphere", concept="sphere")
    copier = Copier(shape_samples)
    figures = judge_generator(copier, [stranger, *shape_samples], judge=tiny_judge)
    assert copier.asked[0][0] == [sample.meta["name"] for sample in shape_samples]
    assert figures["num_pictures"] == 32

    def rows(seed, count=7):
        part = Generation(copier, tiny_judge, num_prompts=count, seed=seed)
        part(shape_samples)
        return part.rows

    assert rows(1) == rows(1) != rows(2)
    assert len(rows(1)) == 7
    assert rows(1, 500) == list(range(32))
    with pytest.raises(DataError, match="found none"):
        judge_generator(copier, [stranger], judge=tiny_judge)


def test_blocks_do_not_change_the_figures(tiny_judge, shape_samples):
    whole = judge_generator(Copier(shape_samples), shape_samples, judge=tiny_judge)
    part = Generation(Copier(shape_samples), tiny_judge)
    for start in range(0, 32, 5):
        part(shape_samples[start : start + 5])
    assert part.judge.hash == whole.pop("judge_hash")
    parted = {name: value for name, value in part.figures().items() if name in whole}
    assert parted == pytest.approx(whole, rel=1e-3, abs=1e-4)


def test_seeds_repeat_but_never_for_one_prompt():
    prompts = ["a"] * 20 + ["b", "c"] * 20
    seeds = seeds_of(prompts, 100)
    assert seeds == seeds_of(prompts, 100)
    assert len(set(zip(prompts, seeds))) == len(prompts)
    assert seeds_of([str(n) for n in range(40)], 7) == [7 + n % NUM_NOISES for n in range(40)]


def test_shuffled_moves_every_class_to_another_place():
    classes = np.array([3, 1, 1, 2, 3, 0, 1, 2])
    moved = shuffled(classes)
    assert sorted(moved) == sorted(classes)
    assert not (moved == classes).any()


def test_a_model_is_asked_by_seed_and_answers_in_order():
    class Model:
        def generate(self, prompts, seed, progress, **how):
            assert how == {"num_steps": 3, "guidance_scale": None}
            return [f"{prompt} {seed}" for prompt in prompts]

    draw = drawn_by(Model(), Asking(num_steps=3))
    assert draw(["a", "b", "c"], [5, 4, 5]) == ["a 5", "b 4", "c 5"]


def test_the_sampler_asked_for_is_the_one_that_draws():
    class Config:
        generation = {"num_steps": 25, "guidance_scale": 4.5}  # noqa: RUF012
        decoder = DecoderConfig(space="pixel", channels=3, map_size=4, text_width=8, pooled_width=8,
                                few_steps=4, few_steps_guidance=3.5)  # fmt: skip

    class Model:
        config = Config

        def generate(self, prompts, seed, progress, **how):
            assert how == {"num_steps": None, "guidance_scale": None, "sampler": "few"}
            return prompts

    asking = Asking(sampler="few")
    assert drawn_by(Model(), asking)(["a"], [0]) == ["a"]
    assert asking.told(Model()) == {"num_steps": 4, "guidance_scale": 3.5, "sampler": "few"}


def test_wrong_calls_are_refused(tiny_judge, shape_samples):
    for name in ("num_prompts", "num_steps"):
        with pytest.raises(InputError, match=f"{name} is 0"):
            Asking(**{name: 0})
    with pytest.raises(InputError, match="asked for 32 pictures and got 3"):
        judge_generator(lambda p, s: [picture(shape_samples[0])] * 3, shape_samples,
                        judge=tiny_judge)  # fmt: skip


class Knowing:
    """A model whose captions and vectors tell the shape, and which draws it or another."""

    def __init__(self, judge, right=True):
        self.judge, self.right = judge, right

    def number(self, image):
        return int(self.judge.look(image).probabilities[0].argmax())

    def caption(self, images):
        return [f"A {self.judge.classes[self.number(image)]}!" for image in images]

    def embed_images(self, images, precision):
        return np.eye(4, dtype=np.float32)[[self.number(image) for image in images]]

    def embed_texts(self, texts, precision):
        return np.eye(4, dtype=np.float32)[[self.judge.number(text) for text in texts]]

    def generate(self, prompts, seed, **how):
        names = [SHAPES[(SHAPES.index(p) + (not self.right)) % 4] for p in prompts]
        return [drawing(name, 3000 + 40 * seed + i) for i, name in enumerate(names)]


@pytest.mark.parametrize("right", [True, False])
def test_a_cycle_is_as_good_as_its_parts(tiny_judge, shape_samples, right):
    model = Knowing(tiny_judge, right)
    generation = Generation(drawn_by(model, Asking()), tiny_judge)
    cycle = Cycle(model, generation)
    for part in (generation, cycle):
        part(shape_samples)
    figures = cycle.figures()
    named = generation.figures()
    two_words = 2 / 3  # the F1 of "a circle" against "circle"
    assert figures["real_token_f1"] == pytest.approx(two_words * named["real_top1"])
    assert figures["token_f1"] == pytest.approx(two_words * named["top1"])
    assert figures["shuffled_token_f1"] < 0.5
    assert (figures["own_tower_recall@1"] > 0.7) == right
    assert figures["own_tower_real_recall@10"] >= figures["own_tower_real_recall@1"]
    assert 0 < figures["own_tower_recall@1_chance"] < 0.5


def test_evaluate_draws_with_a_real_model(tiny_model, tiny_judge, shape_samples):
    asking = Asking(num_prompts=5, num_steps=2, guidance_scale=1.5)
    how = {"parts": ["generation", "cycle"], "asking": asking, "judge": tiny_judge, "seed": 3}
    figures = json.loads(json.dumps(evaluate(tiny_model, shape_samples, **how)))
    assert set(figures) == {"data", "seed", "backbone_hash", "generation", "cycle"}
    for part in ("generation", "cycle"):
        told = {k: figures[part][k] for k in ("num_pictures", "seed", "num_steps")}
        assert told == {"num_pictures": 5, "seed": 3, "num_steps": 2}
        assert figures[part]["guidance_scale"] == 1.5
    assert figures == json.loads(json.dumps(evaluate(tiny_model, shape_samples, **how)))
    alone = evaluate(tiny_model, shape_samples, **{**how, "parts": ["cycle"]})
    assert alone["cycle"] == pytest.approx(figures["cycle"])
    assert "generation" not in alone
