"""The recipe of `mini`: settings are checked, and all stages run on a handful of drawings."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import mmfm
from data_pipelines.scenes import to_sample
from mmfm.data import Sample, write_shards
from mmfm.data.scenes import compose
from mmfm.errors import InputError
from train import mini
from train.mini_recipe import Recipe, apply_settings, flow_weight, flow_weights, sample_weight


def test_settings_reach_their_stage():
    recipe = apply_settings(Recipe(), ("towers.num_steps=7", "flow.learning_rate=0.1", "seed=3"))
    assert (recipe.towers.num_steps, recipe.flow.learning_rate, recipe.seed) == (7, 0.1, 3)
    assert recipe.flow.num_steps == Recipe().flow.num_steps
    assert apply_settings(Recipe(), ()) == Recipe()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("towers.num_step=7", "num_steps"),
        ("sed=3", "seed"),
        ("captioner.num_steps=7", "towers or flow or refine"),
        ("towers.num_steps=many", "not int"),
        ("towers=7", "command line"),
        ("num_steps", "key=value"),
    ],
)
def test_unknown_settings_are_refused(setting, told):
    with pytest.raises(InputError, match=told):
        apply_settings(Recipe(), (setting,))


def test_a_wrong_setting_is_one_line_and_exit_2(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        mini.main(["--data", str(tmp_path), "-o", str(tmp_path / "run"), "sed=3"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("train.mini: error: ")
    assert not (tmp_path / "run").exists()


def test_missing_drawings_are_one_line_and_exit_2(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        mini.main(["--data", str(tmp_path / "nothing"), "-o", str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "nothing" in capsys.readouterr().err


def test_emoji_come_more_often_and_skin_tones_less():
    plain, toned = {"set": "noto", "skin_tone": None}, {"set": "noto", "skin_tone": "dark"}
    icon = {"set": "mdi", "skin_tone": None}
    for weight in (sample_weight, flow_weight):
        assert weight(plain) > weight(icon) > 0
        assert weight(plain) > weight(toned)
        assert weight({**icon, "skin_tone": "dark"}) < weight(icon)


def test_scenes_have_their_share_however_many_they_are(shards, scenes):
    recipe = Recipe()
    for seen in (None, scenes):
        pictures = mini.read_split(shards, "train", 64, seen)
        weights = flow_weights(recipe, pictures)
        of_scenes = [meta["set"] == "scenes" for meta in pictures.meta]
        share = weights[of_scenes].sum() / weights.sum()
        assert share == pytest.approx(0.0 if seen is None else recipe.scene_share)


def drawing(number, split):
    """A drawing with everything that the shards say of one; few names, so that few are drawn."""
    colour = ("red", "green", "blue")[number % 3]
    image = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(image).ellipse((8, 8, 40 + number % 16, 56), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    name = f"{colour} circle"
    maker = "noto" if number % 4 else "twemoji"
    meta = {
        "key": f"{maker}:{split}-{number}", "name": name, "concept": name, "set": maker,
        "style": "flat emoji", "category": None, "keywords": [colour, "round"],
        "source": "made in this test", "license": "CC0-1.0", "author": "nobody",
        "skin_tone": None,
    }  # fmt: skip
    return Sample(f"{number:09d}", buffer.getvalue(), (name, f"a flat emoji of {name}"), meta)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawings")
    for split, count in (("train", 12), ("test", 34), ("unseen", 12)):
        write_shards([drawing(number, split) for number in range(count)], folder / split)
    manifest = {"archives_sha256": {}, "sets": {"noto": {"license": "CC0-1.0"}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "ATTRIBUTION.md").write_text("Circles: nobody, CC0-1.0.\n")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    circles = [np.asarray(Image.open(io.BytesIO(drawing(n, "train").image))) for n in (0, 1)]
    names = ["red circle", "green circle"]
    chance = np.random.default_rng(0)
    made = [compose(circles, names, relation, chance) for relation in ("above", "left of")]
    samples = [to_sample(scene, f"{number:09d}") for number, scene in enumerate(made)]
    write_shards(samples, folder / "train")
    write_shards(samples, folder / "test")
    return folder


def test_from_shards_to_bundle(shards, scenes, tmp_path, capsys):
    settings = [
        "space=grid", "batch_size=6", "flow_batch_size=4", "towers.num_steps=3",
        "flow.num_steps=3", "towers.log_every=1", "flow.log_every=1", "refine.num_steps=1",
        "refine_batch_size=4", "few_steps.num_steps=1", "few_steps_batch_size=2",
        "pixels.num_steps=2", "pixels_batch_size=4", "pixels.log_every=1",
        "refine.log_every=1", "few_steps.log_every=1", "matching.num_steps=1",
        "matching.log_every=1",
    ]  # fmt: skip
    arguments = [
        "--data", str(shards), "--scenes", str(scenes), "-o", str(tmp_path), "--quick", *settings,
    ]  # fmt: skip
    try:
        mini.main(arguments, standalone_mode=False)
    finally:
        torch.set_flush_denormal(False)  # the recipe sets it for its whole process
    for stage in ("towers", "flow"):
        lines = (tmp_path / stage / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 3]
        assert any((tmp_path / stage / "samples").iterdir())

    model = mmfm.load(tmp_path / "bundle", device="cpu")
    said = model.info()
    assert said["skills"] == ["search", "caption", "generate"]
    assert said["space"] == "grid"
    assert set(said["figures"]) >= {"test", "unseen"}
    assert said["figures"]["test"]["data"]["num_samples"] == 34
    assert said["figures"]["test"]["backbone_hash"] == model.backbone_hash
    assert said["trained_on"]["recipe"]["towers"]["num_steps"] == 3
    assert (tmp_path / "bundle" / "ATTRIBUTION.md").is_file()
    took = said["compute"]["training"]
    assert [(stage["name"], stage["samples"]) for stage in took["stages"]] == [
        ("towers", 18), ("flow", 12), ("refine", 4), ("pixels", 8), ("few_steps", 2),
        ("matching", 2),
    ]  # fmt: skip
    assert took["flops"] > 0 and took["cpu_seconds"] > 0
    assert "Circles: nobody" in (tmp_path / "bundle" / "README.md").read_text()
    assert (tmp_path / "generated.png").is_file()
    json.loads(capsys.readouterr().out)  # the figures, for a script to read

    picture = Image.new("RGB", (64, 64), "red")
    assert model.embed_images(picture).shape == (1, 192)
    assert len(model.caption(picture)) == 1
    [drawn] = model.generate("red circle", num_steps=2, seed=0)
    assert drawn.size == (64, 64)

    # the few-step mode came with it, and beside it
    assert model.config.decoder.few_steps == 4
    said = model.backbone.encode_texts(model.backbone.tokenize(["red circle"]))
    with torch.inference_mode():
        assert model.decoder.sample_few(said, [0]).shape == (1, 3, 64, 64)

    # the flow was trained on the towers of stage one, which it left alone
    towers = mmfm.load(tmp_path / "towers" / "bundle", device="cpu")
    flow = mmfm.load(tmp_path / "flow" / "bundle", device="cpu")
    assert towers.decoder is None
    assert flow.backbone_hash == towers.backbone_hash
    assert np.allclose(model.embed_images(picture), flow.embed_images(picture), atol=0.02)
