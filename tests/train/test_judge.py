"""The judge's recipe: it takes training drawings only, and leaves a judge that loads."""

import io
import json

import pytest
from PIL import Image, ImageDraw

from mmfm.data import Sample, write_shards
from mmfm.errors import InputError
from mmfm.evaluation.judge import Judge
from train import judge
from train.judge import Recipe, apply_settings, classes_of, is_watched, split_watched, visits


def split_of(key, concept):
    if judge._bucket(concept, 33) == 0:
        return "unseen"
    return "test" if judge._bucket(key, 20) == 0 else "train"


def drawing(number, concept, maker="noto", tone=None):
    image = Image.new("RGBA", (64, 64))
    pen = ImageDraw.Draw(image)
    box = (8 + number % 9, 8, 40 + number % 16, 56)
    paint = pen.rectangle if "square" in concept else pen.ellipse
    colour = concept.split()[0]
    paint(box, fill="gray" if colour == "thing" else colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    meta = {"key": f"{maker}:{concept}-{number}", "name": concept, "concept": concept,
            "set": maker, "category": "objects", "skin_tone": tone}  # fmt: skip
    return Sample(f"{concept}-{number}", buffer.getvalue(), (concept,), meta)


CONCEPTS = ("red circle", "green square", "blue circle", "black square")
EVERY = [drawing(n, c, tone="dark" if n % 7 == 0 else None) for n in range(30) for c in CONCEPTS]
TRAIN = [s for s in EVERY if split_of(s.meta["key"], s.meta["concept"]) == "train"]
TEST = [s for s in EVERY if split_of(s.meta["key"], s.meta["concept"]) == "test"]


def shards(folder, samples):
    """A folder of two splits: these and the test drawings."""
    write_shards(samples, folder / "train")
    write_shards(TEST, folder / "test")
    return folder


def test_the_rule_of_the_split_is_the_pipeline_s():
    from data_pipelines.drawing import split_of as pipeline_split

    assert TEST
    for sample in EVERY:
        meta = sample.meta
        assert split_of(meta["key"], meta["concept"]) == pipeline_split(
            meta["key"], meta["concept"]
        )


@pytest.mark.parametrize("where", [0, -1])
def test_one_test_drawing_among_the_others_is_refused(tmp_path, capsys, where):
    samples = list(TRAIN)
    samples.insert(where % len(samples), TEST[0])
    folder = shards(tmp_path, samples)
    with pytest.raises(SystemExit) as ended:
        judge.main(["--data", str(folder), "-o", str(tmp_path / "run")])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert TEST[0].meta["key"] in said
    assert "train" in said
    assert not (tmp_path / "run").exists()


def test_an_unseen_concept_is_refused():
    unseen = next(f"thing {n}" for n in range(999) if judge._bucket(f"thing {n}", 33) == 0)
    pictures = judge.PackedPictures.read([*TRAIN, drawing(1, unseen)], 64)
    with pytest.raises(InputError, match="no training drawing"):
        judge.expect_training_split(pictures)


def test_a_run_leaves_a_judge_that_loads_and_says_where_it_is_from(tmp_path):
    folder = shards(tmp_path, TRAIN)
    settings = ("loop.num_steps=6", "batch_size=8", "loop.save_every=3", "loop.precision=fp32")
    path = judge.train_judge(apply_settings(Recipe(), settings), folder, tmp_path / "run")
    made = Judge.load(path)
    assert made.classes == tuple(
        sorted({s.meta["concept"] for s in TEST if not s.meta["skin_tone"]})
    )
    assert made.origin["split"] == "train"
    assert made.origin["recipe"]["loop"]["num_steps"] == 6
    assert 0 <= made.origin["figures"]["held_out_top1"] <= 1
    assert made.origin["drawings"] + made.origin["figures"]["held_out"] <= len(TRAIN)
    assert made.look([s.image for s in TEST]).probabilities.shape == (len(TEST), len(made.classes))
    again = judge.train_judge(apply_settings(Recipe(), settings), folder, tmp_path / "run")
    assert Judge.load(again).hash == made.hash  # a finished run is read, not made again


def test_classes_are_asked_for_and_shown_often_enough_by_untoned_emoji():
    pictures = judge.PackedPictures.read(
        [*TRAIN, drawing(500, "gold square"),
         *(drawing(n, "pink square", "mdi") for n in (1, 2, 3)),
         *(drawing(n, "brown circle", tone="dark") for n in (1, 2, 3))], 64)  # fmt: skip
    asked = {"red circle", "gold square", "pink square", "brown circle", "never drawn"}
    assert classes_of(pictures, asked, 2) == ["red circle"]
    assert classes_of(pictures, asked, 1) == ["gold square", "red circle"]


def test_watched_drawings_are_never_trained_on():
    pictures = judge.PackedPictures.read(TRAIN, 64)
    seen, watched = split_watched(pictures, sorted({m["concept"] for m in pictures.meta}))
    keys = [{meta["key"] for meta in part.meta} for part in (seen, watched)]
    assert keys[0]
    assert keys[1]
    assert not keys[0] & keys[1]
    assert all(is_watched(key) for key in keys[1])
    assert not any(is_watched(key) for key in keys[0])


def test_toned_drawings_and_other_sets_come_less_often():
    plain = {"set": "noto", "skin_tone": None}
    assert visits(plain) > visits({**plain, "set": "mdi"}) > visits({**plain, "skin_tone": "dark"})


@pytest.mark.parametrize(
    ("setting", "told"),
    [("loop.num_step=7", "num_steps"), ("sed=3", "seed"), ("seed", "key=value")],
)
def test_unknown_settings_are_refused(setting, told):
    with pytest.raises(InputError, match=told):
        apply_settings(Recipe(), (setting,))
    assert apply_settings(Recipe(), ("loop.num_steps=7",)).loop.num_steps == 7
    assert json.dumps(judge.asdict(Recipe()))
