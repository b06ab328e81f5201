"""What a model costs, against formulas and its own modules; stages, told by hand or logged."""

import json

import pytest
import torch
from torch import nn

from mmfm.errors import DataError, InputError
from mmfm.training.compute import (
    GUIDELINE,
    Stage,
    compute,
    operations,
    parameters,
    read_stages,
    stage_of_log,
)
from mmfm.training.costs import image_tower, text_tower


@pytest.fixture(scope="module")
def counted(tiny_model):
    return operations(tiny_model)


def test_towers_cost_what_their_formulas_say(tiny_model, counted):
    cfg = dict(tiny_model.config.backbone.model_cfg)
    cfg["vision_cfg"] = {k: v for k, v in cfg["vision_cfg"].items() if k != "pos_embed_type"}
    assert counted["image_embedding"] == pytest.approx(image_tower(cfg).forward_flops, rel=0.01)
    assert counted["text_embedding"] == pytest.approx(text_tower(cfg).forward_flops, rel=0.01)


def test_a_caption_token_costs_what_its_layers_do(tiny_model, counted):
    """2 for each weight a token meets, and both attentions; the picture's memory once a text."""
    c = tiny_model.config.captioner
    n, w, memory = c.max_tokens, c.width, 16 + c.num_pooled_tokens
    block = 2 * n * w * w * (4 + 2 + 8) + 4 * n * w * (n + memory) + 2 * memory * w * 2 * w
    reading = 2 * 16 * c.token_width * w + 2 * c.pooled_width * c.num_pooled_tokens * w
    whole = c.depth * block + reading + 2 * n * w * c.vocab_size
    assert counted["caption_token"] == pytest.approx(whole / n, rel=0.01)


def by_hooks(network, work):
    """Operations of every linear layer and convolution, seen from outside."""
    total = []

    def look(module, inputs, output):
        if isinstance(module, nn.Linear):
            total.append(2 * output.numel() * module.in_features)
        elif isinstance(module, nn.Conv2d):
            k = module.kernel_size[0] * module.kernel_size[1] * module.in_channels
            total.append(2 * output.numel() * k / module.groups)

    kinds = (nn.Linear, nn.Conv2d)
    handles = [m.register_forward_hook(look) for m in network.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        work()
    for handle in handles:
        handle.remove()
    return sum(total)


def test_an_evaluation_of_the_network_is_its_layers_and_little_more(tiny_model, counted):
    decoder, config = tiny_model.decoder, tiny_model.config.decoder
    text = tiny_model.backbone.encode_texts(tiny_model.backbone.tokenize(["a " * 16]))
    condition = decoder.network.conditioner(text, None, None)
    x = torch.zeros(1, config.channels, config.map_size, config.map_size)
    layers = by_hooks(
        decoder.network, lambda: decoder.network(x, torch.zeros(1), condition)
    )  # fmt: skip
    assert layers <= counted["network_evaluation"] <= 1.1 * layers  # the rest is attention


def test_a_picture_is_its_evaluations(tiny_model, counted):
    """25 guided steps are 50 evaluations, but for the context, which is read once."""
    assert tiny_model.config.generation == {"num_steps": 25, "guidance_scale": 4.5}
    most = 50 * counted["network_evaluation"] + counted["text_embedding"]
    assert 0.7 * most < counted["picture"] < most + counted["pixel_decoding"] + 1


def test_a_few_steps_picture_is_so_many_evaluations(tiny_model):
    from dataclasses import replace

    from mmfm.model import MMFM

    config = tiny_model.config
    few = replace(config, decoder=replace(config.decoder, few_steps=4))
    model = MMFM.from_config(few, texts=["a red circle"], device="cpu")
    first, again = operations(model), operations(model)
    assert first == again
    each = (first["few_steps_picture"] - first["text_embedding"]) / 4
    assert 0.9 < each / first["network_evaluation"] <= 1  # the context is read once


def test_parameters_are_those_of_the_modules(tiny_model):
    found = parameters(tiny_model)
    total = sum(p.numel() for part in tiny_model.parts.values() for p in part.parameters())
    assert found["total"] == total == tiny_model.info()["parameters"]["total"]
    backbone = tiny_model.info()["parameters"]["backbone"]
    assert found["image_tower"] + found["text_tower"] == backbone


def test_training_is_three_forwards_and_energy_a_range(tiny_model, counted):
    stages = [
        Stage(name="one", samples=10, trained={"image_embedding": 2}, cpu_seconds=3600.0),
        Stage(name="two", samples=5, run={"caption_token": 4}, cpu_seconds=0.0),
        Stage(name="three", samples=5, flops=7.0, cpu_seconds=0.0),
    ]
    found = compute(tiny_model, stages, watts=(5, 10))
    told = [stage["flops"] for stage in found["training"]["stages"]]
    assert told == [60 * counted["image_embedding"], 20 * counted["caption_token"], 7.0]
    assert found["training"]["flops"] == sum(told)
    assert found["training"]["share_of_guideline"] == sum(told) / GUIDELINE
    assert found["energy"]["kwh"] == [0.005, 0.01]
    assert json.loads(json.dumps(found)) == found


def test_what_is_not_known_is_not_made_up(tiny_model):
    bare = compute(tiny_model)
    assert (bare["training"], bare["energy"]) == (None, None)
    found = compute(tiny_model, [Stage(name="one", samples=1)])
    assert found["training"]["cpu_seconds"] is None and found["energy"] is None


def test_wrong_stages_and_watts_are_told(tiny_model):
    with pytest.raises(InputError, match="network_evaluation"):
        compute(tiny_model, [Stage(name="one", samples=1, trained={"walking": 1})])
    with pytest.raises(InputError, match="least"):
        compute(tiny_model, watts=(9, 3))


def test_a_log_tells_samples_operations_and_seconds(tmp_path):
    rates = {"samples_per_second": 50.0, "gflops_per_second": 25.0, "cpu_seconds": 2.0}
    lines = [
        {"step": 10, "kind": "train", "samples": 40, **rates},
        {"step": 10, "kind": "evaluation"},
        {"step": 20, "kind": "train", "samples": 12, **rates},  # resumed in the middle
    ]
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    stage = stage_of_log(folder, hardware="a core")
    assert (stage.name, stage.samples, stage.cpu_seconds) == ("flow", 80, 4.0)
    assert stage.flops == 80 * 0.5e9
    assert stage_of_log(folder, 64).samples == 1280
    told = [{"log": str(folder), "batch_size": 2, "name": "mine"}, {"name": "x", "samples": 3}]
    (tmp_path / "stages.json").write_text(json.dumps(told))
    one, two = read_stages(tmp_path / "stages.json")
    assert (one.name, one.samples, two.samples) == ("mine", 40, 3)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "list of objects"),
        ([{"name": "flow"}], "no samples"),
        ([{"samples": 3}], "no name"),
        ([{"name": "flow", "samples": 3, "colour": 1}], "colour"),
        ([{"name": "flow", "log": "nowhere"}], "nowhere"),
    ],
)
def test_stages_that_cannot_be_are_told(tmp_path, told, said):
    (tmp_path / "stages.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=said):
        read_stages(tmp_path / "stages.json")
