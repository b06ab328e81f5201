"""What the model knew already, as shards."""

import pytest

import mmfm
from mmfm.data.sample import Sample
from mmfm.data.shards import write_shards
from mmfm.errors import DataError
from mmfm.finetuning import original
from mmfm.preprocess.transform import Preprocess
from tests.finetuning.conftest import QUICK, fill

PREPROCESS = Preprocess(image_size=32)


@pytest.fixture
def shards(known, tmp_path):
    """24 pictures in two shards, one of them with an empty caption."""
    samples = [
        Sample(path.stem, path.read_bytes(), (path.with_suffix(".txt").read_text(), "a shape"), {})
        for path in sorted(known.glob("*.png"))
    ]
    samples[3] = Sample("bare", samples[3].image, ("",), {})
    write_shards(samples, tmp_path / "shards", max_count=12)
    return tmp_path / "shards"


def read(path, num_new=8):
    return original.read_original(path, PREPROCESS, False, num_new=num_new)


def test_shards_are_practised_and_measured(grid_bundle, folder, shards, tmp_path):
    report = mmfm.finetune(
        str(grid_bundle), images=folder, original=shards, train="all",
        heads=("contrastive", "caption"), output=tmp_path / "new", **QUICK,
    )  # fmt: skip
    assert report.plan["pictures"]["original to practise"] == 11
    told = report.figures["original"]
    assert told["before"]["retrieval"]["gallery"] == told["after"]["retrieval"]["gallery"] == 12
    assert str(shards) in told["note"]
    assert report.told["mix"]["before"]["original"] == 12


def test_of_many_a_part_that_suits_the_new_ones(shards, monkeypatch):
    monkeypatch.setattr(original, "_MOST_MEASURED", 5)
    monkeypatch.setattr(original, "_LEAST_PRACTISED", 3)
    found = read(shards, num_new=2)
    assert len(found.exam) == 5 and 7 <= len(found.practice) <= 8
    assert not {*found.exam.keys} & {*found.practice.keys}
    every = read(shards, num_new=100)
    assert len(every.exam) == 5 and len(every.practice) == 18


def test_what_cannot_be_read_is_left_out_but_not_half(known):
    (known / "24.png").write_bytes(b"no picture")
    assert len(read(known).exam) + len(read(known).practice) == 23
    for number in range(25, 40):
        (known / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="16 of"):
        read(known)


def test_too_few_are_said(grid_bundle, folder, tmp_path):
    few = fill(tmp_path / "few", range(24, 30))
    lines = []
    report = mmfm.finetune(
        str(grid_bundle), images=folder, original=few, heads=("contrastive",), say=lines.append,
        output=tmp_path / "new", **QUICK,
    )  # fmt: skip
    assert set(report.figures) == {"held_out"}
    assert any("too few other pictures" in line for line in lines)
