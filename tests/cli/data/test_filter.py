"""`mmfm data filter`: options become filters, results go to stdout, mistakes are one line."""

import hashlib
import json

import pytest

from mmfm.data import read_shards
from tests.data.filters.pictures import encode, sample, scene, shards


@pytest.fixture
def folder(tmp_path):
    """Eight good samples, a copy, a file name for a caption, and one that is too small."""
    samples = [sample(seed, url=f"https://good.test/{seed}") for seed in range(8)]
    samples += [
        sample(8, image=samples[2].image),
        sample(9, "IMG_0001.jpg"),
        sample(10, image=encode(scene(10, (30, 15)))),
    ]
    return shards(tmp_path / "in", samples)


def kept(path):
    return [int(one.key) for one in read_shards(path / "shards")]


def test_filters_and_says_what_went(run, folder, tmp_path):
    done = run("data", "filter", folder, "-o", tmp_path / "out", "--min-side", 20,
               "--clean-captions", "--exact-duplicates")  # fmt: skip
    assert done.code == 0, done.err
    assert "11 samples, 8 kept" in done.out
    assert "too-small 1" in done.out and "file-name 1" in done.out and "same-bytes 1" in done.out
    assert kept(tmp_path / "out") == list(range(8))


def test_json_and_manifest_tell_the_same(run, folder, tmp_path):
    arguments = (
        "data",
        "filter",
        folder,
        "--near-duplicates",
        "--language",
        "en",
        "--min-words",
        3,
    )
    document = run(*arguments, "-o", tmp_path / "out", "--json").document
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert document["samples"] == manifest["samples"] == {"found": 11, "kept": 9}
    assert document["filters"] == manifest["filters"]
    assert manifest["command"]["min_words"] == 3
    assert manifest["command"]["languages"] == ["en"]
    counted = run(*arguments, "--report-only", "--json").document
    assert {**counted, "output": document["output"]} == document


def test_lists_and_opt_outs(run, folder, tmp_path):
    [blocked] = [one for one in read_shards(folder) if one.key == "000003"]
    (tmp_path / "hashes").write_text(hashlib.sha256(blocked.image).hexdigest())
    (tmp_path / "urls").write_text("https://good.test/5")
    done = run("data", "filter", folder, "-o", tmp_path / "out", "--block-hashes",
               tmp_path / "hashes", "--block-urls", tmp_path / "urls",
               "--opt-out-column", "stay out")  # fmt: skip
    assert done.code == 0, done.err
    assert kept(tmp_path / "out") == [0, 1, 2, 4, 6, 7, 8, 9, 10]
    assert "no sample that was kept has a field 'stay out'" in done.err
    assert "3 of 9 kept samples have no address" in done.err


def test_a_model_scores_and_finds_copies(tiny, folder, tmp_path):
    arguments = ("data", "filter", folder, "--score-min", -1, "--embedding-duplicates", 0.99999)
    assert tiny("data", "embed", folder, "-o", tmp_path / "store", "--texts").code == 0
    plain = tiny(*arguments, "--json", "--report-only").document
    stored = tiny(*arguments, "--json", "--report-only", "--store", tmp_path / "store").document
    [score, copies] = plain["filters"][-2:]
    assert (score["filter"], score["dropped"]) == ("score", 0)
    assert copies["filter"] == "embedding-duplicate" and copies["dropped"] >= 1
    assert stored["filters"][-1]["dropped"] == copies["dropped"]
    best = tiny("data", "filter", folder, "-o", tmp_path / "out", "--score-keep", 0.5)
    assert best.code == 0 and len(kept(tmp_path / "out")) == 6


def test_several_processes_give_the_same(run, folder, tmp_path):
    for name, workers in (("one", 0), ("two", 2)):
        done = run("data", "filter", folder, "-o", tmp_path / name, "--near-duplicates",
                   "--workers", workers, "--shard-size", 4)  # fmt: skip
        assert done.code == 0, done.err
    for path in sorted((tmp_path / "one/shards").iterdir()):
        assert path.read_bytes() == (tmp_path / "two/shards" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give -o FOLDER, or --report-only"),
        (("-o", "out", "--report-only"), "leave out -o"),
        (("--report-only", "--hash-distance", "3"), "--hash-distance is of use only with"),
        (("--report-only", "--url-column", "u"), "--url-column is of use only with --block-urls"),
        (("--report-only", "--store", "s"), "--store is of use only with"),
        (("--report-only", "--language", "klingon"), "no hint names the language klingon"),
        (("--report-only", "--block-hashes", "no.txt"), "no.txt"),
        (("--report-only", "--min-words", "5", "--max-words", "2"), "5 to 2 words"),
        (("--report-only", "--score-keep", "0"), "share to keep is 0"),
        (("--report-only", "--keep-opted-out", "--opt-out-column", "x"), "contradict"),
    ],
)
def test_a_wrong_call_is_one_line(run, tiny_bundle, folder, arguments, words):
    done = run("data", "filter", folder, *arguments, "--model", tiny_bundle)
    assert words in done.refused()


def test_a_folder_in_use_and_missing_shards_are_one_line(run, folder, tmp_path):
    assert "is in use" in run("data", "filter", folder, "-o", folder).refused()
    assert "nowhere" in run("data", "filter", tmp_path / "nowhere", "--report-only").refused()
