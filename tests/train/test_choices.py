"""Trials of the choices behind `mini`: every arm trains, and only what it names is changed."""

import io
import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw

from mmfm.data import Sample, write_shards
from mmfm.presets import mini
from train import choices, flow_choices
from train.choices import Budget, with_backbone
from train.mini_recipe import RECIPES, Recipe


def drawing(number):
    image = Image.new("RGBA", (64, 64))
    colour = ("red", "green", "blue")[number % 3]
    ImageDraw.Draw(image).ellipse((8, 8, 40 + number % 16, 56), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    meta = {"key": f"noto:{number}", "name": f"{colour} circle", "set": "noto", "style": "flat",
            "keywords": [colour], "skin_tone": None}  # fmt: skip
    return Sample(f"{number:09d}", buffer.getvalue(), (meta["name"],), meta)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawings")
    write_shards((drawing(number) for number in range(160)), folder / "train")
    return folder


def lines(command, *arguments):
    done = CliRunner().invoke(command, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_arms_of_the_towers_train_for_as_long_as_they_are_told(shards, tmp_path):
    told = lines(
        choices.main, "--data", shards, "-o", tmp_path, "--seconds", 0.01, "sigmoid", "patch8"
    )
    assert [line["arm"] for line in told] == ["sigmoid", "patch8"]
    assert all(line["visits"] >= 128 and line["held_out"] > 0 for line in told)


@pytest.mark.slow
def test_arms_of_the_flow_train(shards, tmp_path):
    arms = ("v", "aligned", "dropped")
    told = lines(flow_choices.main, "--data", shards, "-o", tmp_path, "--seconds", 0.01, *arms)
    assert [line["arm"] for line in told] == list(arms)
    assert all(line["held_out_loss@0.4"] > 0 for line in told)
    assert (tmp_path / "aligned-0.png").is_file()


def test_an_unknown_arm_is_one_line_and_exit_2(shards):
    for command in (choices.main, flow_choices.main):
        done = CliRunner().invoke(command, ["--data", str(shards), "patch9"])
        assert done.exit_code == 2
        assert "there is no arm 'patch9'" in done.output


def test_an_arm_changes_what_it_names():
    plain = mini(100)
    assert with_backbone(plain) == replace(plain, decoder=None)
    patch8 = choices.ARMS["patch8"](plain)
    assert patch8.backbone.model_cfg["vision_cfg"]["patch_size"] == 8
    assert (patch8.pixel_decoder.patch_size, patch8.pixel_decoder.grid_size) == (8, 8)
    assert patch8.backbone.model_cfg["text_cfg"] == plain.backbone.model_cfg["text_cfg"]
    assert choices.ARMS["width384"](plain).captioner.token_width == 384


def test_places_go_round_in_training_alone():
    from mmfm.layers.blocks import MapAttention

    torch.manual_seed(0)
    layer = MapAttention(32, 32, 16)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    x, context = torch.randn(3, 32, 4, 4), torch.randn(3, 5, 32)
    mask = torch.ones(3, 5, dtype=torch.bool)
    whole = layer.eval()(x, context, mask)
    flow_choices.go_round(layer)
    assert torch.equal(layer(x, context, mask), whole)
    passed = (layer.train()(x, context, mask) == x).all(dim=1).flatten(1).sum(dim=1)
    assert passed.tolist() == [8, 8, 8]


def test_a_budget_is_spent():
    budget = Budget(0.0)
    assert not budget()
    sum(i * i for i in range(10_000))
    assert budget()
    assert budget.steps == 1


def test_a_gpu_is_given_more_of_the_same():
    few, many = Recipe(), RECIPES["gpu"](Recipe())
    for stage in ("towers", "flow", "refine", "pixels", "few_steps"):
        size = {"towers": "batch_size"}.get(stage, f"{stage}_batch_size")
        visits = [getattr(r, size) * getattr(r, stage).num_steps for r in (few, many)]
        assert visits[1] > 5 * visits[0]
    assert (few.space, few.num_few_steps) == (many.space, many.num_few_steps)
