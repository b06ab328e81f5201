"""Answers to questions, by a model that knows all and one that always says the same."""

import io

import numpy as np
import pytest
from PIL import Image

from mmfm.data.colours import dominant_colours
from mmfm.data.questions import KINDS, PROMPTS, answer
from mmfm.data.sample import Sample
from mmfm.errors import DataError, TextError
from mmfm.evaluation import evaluate
from mmfm.evaluation.prompts import Prompts, answer_figures

NAMES = ("apple", "dog", "blue car", "tree", "old house", "cup", "moon", "fish")


def make(number, name):
    pixels = np.zeros((24, 24, 4), np.uint8)
    pixels[4:20, 4:20] = ((220, 30, 40, 255), (40, 100, 220, 255))[number % 2]
    pixels[0, 0] = (number, 0, 0, 1)  # so that no two pictures are the same bytes
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    meta = {"key": f"set:{name}-{number}", "name": name, "style": "flat icon"}
    meta["keywords"] = ["x"] if number % 2 else []
    return Sample(str(number), file.getvalue(), (name,), meta)


class Knows:
    """Answers by looking the picture's bytes up; canvases of copies by counting their islands."""

    def __init__(self, samples):
        self.by_image = {sample.image: sample for sample in samples}
        self.asked = []

    def caption(self, images, *, prompt=""):
        prompts = prompt if isinstance(prompt, list) else [prompt]
        self.asked += prompts
        return [f"{p} {self.answer(i, p)}".strip() for i, p in zip(images, prompts, strict=True)]

    def answer(self, image, prompt):
        if isinstance(image, Image.Image):
            return ""
        sample = self.by_image[image]
        colours = dominant_colours(np.asarray(Image.open(io.BytesIO(image)).convert("RGBA")))
        if "is there" in prompt:
            return "yes" if sample.meta["name"] in prompt else "no"
        kind = next(kind for kind, ways in PROMPTS.items() if prompt in ways)
        return answer(kind, sample.meta["name"], {**sample.meta, "colours": colours})


@pytest.fixture
def samples():
    return [make(number, name) for number, name in enumerate(NAMES * 3)]


def test_who_knows_gets_everything_and_each_kind_its_count(samples):
    model = Knows(samples)
    prompts = Prompts(model)
    prompts(samples)
    figures = prompts.figures()
    assert set(figures) == set(KINDS)
    for kind, found in figures.items():
        if kind != "how many":
            assert found["exact"] == found["token_f1"] == 1, kind
    assert figures["keywords"]["num_images"] == 12
    assert figures["is there"]["num_images"] > 16
    assert 0.2 < figures["is there"]["exact_majority"] < 0.9
    assert figures["how many"]["exact"] == 0 and figures["how many"]["exact_majority"] >= 1 / 6
    assert figures["style"]["exact_majority"] == 1


def test_what_is_asked_does_not_change_from_run_to_run(samples):
    first, again = Knows(samples), Knows(samples)
    for model in (first, again):
        Prompts(model)(samples)
    assert first.asked == again.asked


def test_a_question_that_is_too_long_is_a_wrong_answer(samples):
    class Short(Knows):
        def caption(self, images, *, prompt=""):
            if any("old house" in one for one in ([prompt] if isinstance(prompt, str) else prompt)):
                raise TextError("too long")
            images = images if isinstance(images, list) else [images]
            return super().caption(images, prompt=prompt if isinstance(prompt, list) else [prompt])

    prompts = Prompts(Short(samples))
    prompts(samples)
    found = prompts.figures()
    assert 0.5 < found["is there"]["exact"] < 1
    assert found["colour"]["exact"] == 1


def test_figures_of_a_worked_example():
    figures = answer_figures(["red", "red and blue", "no"], ["red", "red", "blue and red"])
    assert figures["exact"] == pytest.approx(1 / 3)
    assert figures["token_f1"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert figures["exact_majority"] == pytest.approx(2 / 3)
    assert figures["token_f1_majority"] == pytest.approx((1 + 1 + 0.5) / 3)


def test_data_without_captions_is_refused(samples):
    with pytest.raises(DataError, match="captions"):
        Prompts(Knows(samples)).figures()


def test_it_is_a_part_of_the_evaluation(tiny_model, samples):
    figures = evaluate(tiny_model, samples, parts=("prompts",))
    assert figures["prompts"]["name"]["num_images"] == 24
