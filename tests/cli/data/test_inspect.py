"""`mmfm data inspect` as a person runs it."""

import shlex
import shutil

from mmfm.cli.data.source import KINDS
from mmfm.data import layouts


def test_it_says_what_there_is_and_what_would_fail_and_why(run, album):
    report = run("data", "inspect", "album", "--json").document
    assert report["layout"].startswith("captions.csv")
    assert (report["pictures"], report["looked_at"], report["usable"]) == (12, 12, 9)
    assert {cause: found["count"] for cause, found in report["bad"].items()} == {
        "missing": 1, "damaged": 1, "not-an-image": 1,
    }  # fmt: skip
    assert "line 13 of album/captions.csv names 11.jpg" in report["bad"]["missing"]["examples"][0]
    assert report["bad_share"] == 3 / 12
    assert report["captions"]["words"] == {"min": 3, "median": 3, "max": 3}
    assert report["duplicates"] == {"copies": 1, "examples": [["7.jpg", "8.jpg"]]}
    assert report["height"] == {"min": 20, "median": 24, "max": 27}
    assert report["formats"] == {"JPEG": 9}


def test_people_read_the_same_and_get_the_next_command(run, album):
    done = run("data", "inspect", "album")
    assert done.code == 0
    for words in ("12, all of them decoded: 9 can be used", "25.00%", "damaged 1", "7.jpg = 8.jpg"):
        assert words in done.out
    last = done.out.splitlines()[-1]
    assert last.startswith("next: mmfm data shard album -o album-shards --on-bad skip --max-bad ")


def test_the_next_command_works_until_nothing_is_bad(run, album):
    first = shlex.split(run("data", "inspect", "album", "--json").document["next"])
    assert run(*first[1:], "--json").document["samples"] == 9
    second = run("data", "inspect", "album-shards", "--json").document
    assert (second["pictures"], second["usable"], second["bad"]) == (9, 9, {})
    assert second["next"].startswith("mmfm data embed album-shards")


def test_a_draw_is_repeatable_and_said(run, album):
    calls = [run("data", "inspect", "album", "--limit", 5, "--seed", seed) for seed in (3, 3, 4)]
    assert calls[0].out == calls[1].out != calls[2].out
    assert "12; 5 drawn at random (seed 3)" in calls[0].out
    # what needs no picture is looked through whole, however few are decoded
    report = run("data", "inspect", "album", "--limit", 1, "--seed", 1, "--json").document
    assert (report["captions"]["count"], report["bad"]["missing"]["count"]) == (11, 1)


def test_all_and_limit_decode_as_many_as_they_say(run, album):
    assert run("data", "inspect", "album", "--limit", 12, "--json").document["looked_at"] == 12
    assert run("data", "inspect", "album", "--all", "--json").document["seed"] is None
    assert "contradict" in run("data", "inspect", "album", "--all", "--limit", 3).refused()


def test_classes_are_counted(run, album):
    for name, files in {"red_fox": "012", "crow": "34"}.items():
        (album / name).mkdir()
        for file in files:
            shutil.move(album / f"{file}.jpg", album / name)
    for path in album.glob("*.*"):
        path.unlink()
    report = run("data", "inspect", "album", "--json").document
    assert report["classes"] == {"red_fox": 3, "crow": 2}
    assert "2: red_fox 3, crow 2" in run("data", "inspect", "album").out


def test_what_is_of_no_use_is_refused_in_one_line(run, album):
    for path in album.glob("*.jpg"):
        path.write_bytes(b"<html>")
    line = run("data", "inspect", "album").refused()
    assert "no picture of" in line and "not-an-image 11, missing 1" in line
    shutil.rmtree(album)
    assert "nothing at album" in run("data", "inspect", "album").refused()
    album.mkdir()
    assert "no files; wanted" in run("data", "inspect", "album").refused()


def test_the_layouts_of_the_option_are_those_that_there_are():
    assert KINDS == layouts.KINDS


def test_the_next_command_works_for_tars_that_are_cut_off(run, album, tmp_path):
    made = ("-o", "s", "--on-bad", "skip", "--max-bad", 1, "--samples-per-shard", 3)
    run("data", "shard", "album", *made)
    shard = tmp_path / "s" / "00002.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    report = run("data", "inspect", "s", "--json").document
    assert report["bad"]["truncated"]["count"] == 1 and report["usable"] < 9
    again = run(*shlex.split(report["next"])[1:], "--json").document
    assert again["samples"] == report["usable"]
