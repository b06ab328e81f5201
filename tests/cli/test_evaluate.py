"""`mmfm evaluate`: figures of held-out shards, for people and for programs."""

import io
import tarfile

import pytest
from PIL import Image

from mmfm.data import Sample, write_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "test"
    samples = []
    for i, colour in enumerate(("red", "green", "blue", "yellow")):
        buffer = io.BytesIO()
        Image.new("RGBA", (32, 32), colour).save(buffer, "PNG")
        meta = {"key": f"s:{colour}", "name": colour, "set": "warm" if i % 3 == 0 else "cold"}
        samples.append(Sample(f"{i:09d}", buffer.getvalue(), (colour, f"a {colour} square"), meta))
    write_shards(samples, folder)
    return folder


def test_every_figure_comes_with_counts(run, tiny_bundle, shards):
    figures = run("evaluate", "--data", shards, "--model", tiny_bundle, "--json").document
    assert figures["data"]["num_samples"] == 4
    assert figures["retrieval"]["gallery"] == 4
    assert 0 <= figures["captioning"]["token_f1"] <= 1
    assert figures["reconstruction"]["psnr"] > 0
    assert len(figures["backbone_hash"]) == 64


def test_sets_and_limit_choose_samples(run, tiny_bundle, shards):
    options = ("--data", shards, "--model", tiny_bundle, "--json")
    assert run("evaluate", *options, "--sets", "warm").document["data"]["num_samples"] == 2
    assert run("evaluate", *options, "--limit", "3").document["data"]["num_samples"] == 3


def test_unknown_sets_and_missing_shards_are_refused(run, tiny_bundle, shards, tmp_path):
    model = ("--model", tiny_bundle)
    assert "cold, warm" in run("evaluate", "--data", shards, "--sets", "hot", *model).refused()
    assert "holds no files" in run("evaluate", "--data", tmp_path, *model).refused()


def test_class_folders_are_named_and_learnt(run, tiny_bundle, tmp_path):
    for colour in ("red", "dark_blue"):
        (tmp_path / "classes" / colour).mkdir(parents=True)
        for place in range(4):
            tone = (200 + place, 20, 20) if colour == "red" else (10, 10, 120 + place)
            picture = Image.new("RGB", (32, 32), tone)
            picture.save(tmp_path / "classes" / colour / f"{place}.png")
    data = ("--data", tmp_path / "classes", "--train", tmp_path / "classes", "--model", tiny_bundle)
    figures = run("evaluate", *data, "--parts", "zero-shot,probe,knn", "--json").document
    assert set(figures) >= {"zero_shot", "probe", "knn"}
    assert figures["zero_shot"]["num_labels"] == 2
    assert figures["probe"]["top1"] == figures["knn"]["top1"] == 1
    templates = run("evaluate", *data, "--parts", "zero_shot", "--templates", "simple", "--json")
    assert templates.document["zero_shot"]["templates"] == "simple"


def test_labels_may_come_from_any_field(run, tiny_bundle, shards):
    options = ("--data", shards, "--model", tiny_bundle, "--json")
    figures = run("evaluate", *options, "--labels-from", "set").document
    assert figures["zero_shot"]["num_labels"] == 2
    assert {"retrieval", "captioning", "reconstruction"} < set(figures)
    every = run("evaluate", *options, "--captions", "all", "--parts", "retrieval").document
    assert every["retrieval"]["num_texts"] == 8


def test_parts_that_are_not_there_are_refused(run, tiny_bundle, shards, tmp_path):
    options = ("--data", shards, "--model", tiny_bundle)
    assert "no part 'speed'" in run("evaluate", *options, "--parts", "speed").refused()
    assert "no embedding store" in run("evaluate", *options, "--store", tmp_path).refused()
    assert "two labels" in run("evaluate", *options, "--parts", "knn").refused()


def test_classes_may_be_numbers_with_names_in_a_file(run, tiny_bundle, tmp_path):
    (tmp_path / "test").mkdir()
    with tarfile.open(tmp_path / "test" / "0.tar", "w") as tar:
        for place in range(6):
            picture = io.BytesIO()
            Image.new("RGB", (32, 32), ("red", "navy")[place % 2]).save(picture, "PNG")
            for kind, data in (("cls", b"%d" % (place % 2)), ("png", picture.getvalue())):
                member = tarfile.TarInfo(f"{place}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    names = tmp_path / "classnames.txt"
    names.write_text("red\nblue\n")
    options = ("--data", tmp_path / "test", "--model", tiny_bundle, "--class-names", names)
    figures = run("evaluate", *options, "--parts", "zero_shot", "--json").document["zero_shot"]
    assert (figures["num_images"], figures["num_labels"]) == (6, 2)
    names.write_text("red\n")
    assert "wanted a number below" in run("evaluate", *options, "--parts", "zero_shot").refused()
    names.write_text("red\n\nred\n")
    assert "one name a line" in run("evaluate", *options, "--parts", "zero_shot").refused()


def test_generated_pictures_are_judged(run, tiny_bundle, tmp_path):
    samples = []
    for i, name in enumerate(("red apple", "spider", "nothing that the judge knows")):
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), (90 * i, 20, 20)).save(buffer, "PNG")
        meta = {"key": f"s:{name}", "name": name, "set": "made"}
        samples.append(Sample(f"{i:09d}", buffer.getvalue(), (name,), meta))
    write_shards(samples, tmp_path / "test")
    options = ("--data", tmp_path / "test", "--model", tiny_bundle, "--parts", "generation,cycle")
    told = ("--num-steps", "2", "--guidance", "1.5", "--seed", "4", "--json")
    figures = run("evaluate", *options, *told).document
    assert {"generation", "cycle"} < set(figures)
    for part in ("generation", "cycle"):
        assert figures[part]["num_pictures"] == 2
        assert (figures[part]["num_steps"], figures[part]["guidance_scale"]) == (2, 1.5)
        assert figures[part]["seed"] == 4
    assert len(figures["generation"]["judge_hash"]) == 64
    one = run("evaluate", *options, "--prompts", "1", *told).document
    assert one["generation"]["num_pictures"] == 1
    assert one["generation"]["fid"] is None  # of one picture
    assert "cannot be read as a judge" in run("evaluate", *options, "--judge", tmp_path).refused()
