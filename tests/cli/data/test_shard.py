"""`mmfm data shard` as a person runs it."""

import json

import pytest
from PIL import Image

from mmfm.data import ShardDataset


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_are_indexed_and_say_where_they_came_from(run, album, tmp_path):
    report = run("data", "shard", "album", "-o", "s", "--on-bad", "skip", "--max-bad", 0.3,
                 "--samples-per-shard", 4, "--json").document  # fmt: skip
    assert (report["samples"], report["shards"]) == (9, 3)
    assert report["bad"] == {"missing": 1, "damaged": 1, "not-an-image": 1}
    dataset = ShardDataset.open(tmp_path / "s")
    assert [dataset.read(row).captions for row in range(9)] == [
        (f"picture number {i}",) for i in range(9)
    ]
    assert dataset.read(3).image == (album / "3.jpg").read_bytes()
    manifest = json.loads((tmp_path / "s.manifest.json").read_text())
    assert manifest["fingerprint"] == dataset.fingerprint()
    assert (manifest["source"], manifest["samples"]) == ("album", 9)
    listed = [json.loads(line) for line in (tmp_path / "s.bad.jsonl").read_text().splitlines()]
    assert {entry["cause"] for entry in listed} == set(report["bad"])


def test_the_first_bad_sample_stops_it_and_leaves_nothing(run, album, tmp_path):
    line = run("data", "shard", "album", "-o", "s").refused()
    assert "9.jpg is cut short or damaged" in line and "--on-bad skip" in line
    assert [path.name for path in tmp_path.iterdir()] == ["album"]


def test_too_large_a_share_stops_it_and_leaves_what_was_there(run, album, tmp_path):
    options = ("-o", "s", "--on-bad", "skip")
    run("data", "shard", "album", *options, "--max-bad", 0.3)
    before = contents(tmp_path / "s")
    line = run("data", "shard", "album", *options, "--max-bad", 0.2).refused()
    assert "3 of 12 samples cannot be used" in line and "--max-bad" in line
    assert contents(tmp_path / "s") == before


def test_a_second_run_gives_the_same_bytes(run, album, tmp_path):
    call = ("data", "shard", "album", "-o", "s", "--on-bad", "skip", "--max-bad", 0.3)
    assert run(*call).code == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "s").glob("*.tar")}
    assert run(*call).code == 0
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "s").glob("*.tar")}


def test_quarantine_keeps_the_bytes_that_were_left_out(run, album, tmp_path):
    done = run("data", "shard", "album", "-o", "s", "--on-bad", "quarantine", "--max-bad", 1)
    assert done.code == 0
    kept = [path.read_bytes() for path in (tmp_path / "s.quarantine").glob("*.bin")]
    assert sorted(kept) == sorted((album / name).read_bytes() for name in ("9.jpg", "10.jpg"))


def test_size_and_other_formats(run, album, tmp_path):
    (album / "captions.csv").unlink()
    for i in (7, 8, 9, 10):
        (album / f"{i}.jpg").unlink()
    Image.new("RGB", (90, 60), "red").save(album / "red.gif")
    report = run("data", "shard", "album", "-o", "s", "--size", 16, "--json").document
    assert report["converted"] == {"JPEG": 7, "GIF": 1}
    dataset = ShardDataset.open(tmp_path / "s")
    sides = {min(sample.meta["width"], sample.meta["height"])
             for sample in map(dataset.read, range(8))}  # fmt: skip
    assert sides == {16}
    assert dataset.read(7).image.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("album", "lies inside"),
        ("album/shards", "lies inside"),
        ("album/captions.csv/x", "captions.csv"),
        ("taken.txt", "is a file"),
        ("full", "not shards"),
    ],
)
def test_where_the_shards_cannot_go(run, album, tmp_path, output, words):
    (tmp_path / "taken.txt").write_text("dear")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("dear")
    done = run("data", "shard", "album", "-o", output, "--on-bad", "skip", "--max-bad", 1)
    assert (done.code, done.out) == (2, "") and words in done.err
    assert (tmp_path / "full" / "thesis.txt").exists()


def test_notes_are_told_on_stderr_and_json_stays_alone(run, album):
    done = run("data", "shard", "album", "-o", "s", "--on-bad", "skip", "--max-bad", 1, "--json")
    assert "captions from `text`" in done.err
    assert set(done.document) >= {"samples", "shards", "bad", "output"}
