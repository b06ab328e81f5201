"""Scenes whose figures are known: real ones, mirrored ones, blank pages."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmfm.data.sample import Sample
from mmfm.data.scenes import compose
from mmfm.errors import DataError, InputError
from mmfm.evaluation.scenes import Scenes, seen_through_windows
from tests.evaluation.conftest import SHAPES, SIZE, drawing


def rgba(shape, number):
    large = drawing(shape, number).resize((2 * SIZE, 2 * SIZE))
    return np.asarray(large.convert("RGBA"))


@pytest.fixture(scope="module")
def samples():
    found = []
    for number in range(24):
        first = number % 4
        names = [SHAPES[first], SHAPES[(first + 1 + number // 4 % 3) % 4]]
        relation = ("left of", "right of", "above", "below")[number // 2 % 4]
        drawings = [rgba(name, 3000 + number) for name in names]
        scene = compose(drawings, names, relation, np.random.default_rng(number))
        file = io.BytesIO()
        Image.fromarray(scene.rgb).save(file, "PNG")
        found.append(Sample(str(number), file.getvalue(), scene.captions, scene.meta()))
    return found


def figures(draw, samples, judge, **how):
    part = Scenes(draw, judge, **how)
    part(samples)
    return part.figures()


def pictures(samples):
    return [Image.open(io.BytesIO(sample.image)) for sample in samples]


def test_real_scenes_get_the_ceiling(tiny_judge, samples):
    found = figures(lambda prompts, seeds: pictures(samples), samples, tiny_judge)
    assert found["num_scenes"] == 24
    for name in ("both_top1", "both", "one", "relation"):
        assert found[name] == found[f"real_{name}"]
    assert found["relation"] > 0.8
    assert found["shuffled_both_top1"] <= found["both_top1"]


def test_mirrored_and_flipped_scenes_have_the_wrong_relation(tiny_judge, samples):
    def turned(prompts, seeds):
        return [ImageOps.flip(ImageOps.mirror(one)) for one in pictures(samples)]

    assert figures(turned, samples, tiny_judge)["relation"] < 0.2


def test_prompts_are_the_plain_captions(tiny_judge, samples):
    asked = []

    def draw(prompts, seeds):
        asked.extend(prompts)
        return [Image.new("RGB", (64, 64), "white")] * len(prompts)

    found = figures(draw, samples, tiny_judge, num_prompts=6, settings={"num_steps": 3})
    assert len(asked) == found["num_scenes"] == 6 and found["num_steps"] == 3
    assert set(asked) <= {sample.captions[0] for sample in samples}


def test_a_window_is_the_judges_own_view_of_that_part(tiny_judge):
    # a drawing in the upper left quarter, seen through the first window, is that drawing
    small = drawing("cross", 1)
    page = Image.new("RGB", (2 * SIZE, 2 * SIZE), "white")
    page.paste(small, (0, 0))
    seen = seen_through_windows(tiny_judge, [page])
    assert seen.shape == (1, 25, 4)
    assert seen[0, 0] == pytest.approx(tiny_judge.look([small]).probabilities[0], abs=1e-5)


def test_without_scenes_one_sentence_says_what_to_do(tiny_judge, shape_samples):
    with pytest.raises(DataError, match=r"data_pipelines\.scenes"):
        figures(lambda prompts, seeds: [], shape_samples, tiny_judge)


def test_a_generator_that_gives_too_few_is_told(tiny_judge, samples):
    with pytest.raises(InputError, match="asked for 24 pictures and got 1"):
        figures(lambda prompts, seeds: pictures(samples)[:1], samples, tiny_judge)
