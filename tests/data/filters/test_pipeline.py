"""The whole: planted faults go for the right reason, nothing else goes, and all is on record."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from mmfm.data import read_shards
from mmfm.data.bad import BadSamples
from mmfm.data.dataset import ShardDataset
from mmfm.data.filters import (
    CaptionFilter,
    ExactDuplicates,
    HashBlocklist,
    LanguageFilter,
    NearDuplicates,
    OptOutFilter,
    RepeatedCaptions,
    ScoreFilter,
    SizeFilter,
    UrlBlocklist,
    filter_shards,
)
from mmfm.errors import DataError, OutputError
from tests.data.filters.pictures import encode, sample, scene, shards

GOOD = 40
LICENCES = ["MIT", "CC-BY-4.0", None]


def good(seed):
    licence = LICENCES[seed % 3]
    return sample(
        seed, url=f"https://good.test/{seed}.jpg", **({"license": licence} if licence else {})
    )


def planted():
    """{key: (filter, reason)} and the samples: good ones, and one of each fault among them."""
    blocked = sample(103, image=encode(scene(103)))
    bad = [
        (sample(101, noai=True), "opt-out", "opted-out"),
        (sample(102, headers={"X-Robots-Tag": "noimageai"}), "opt-out", "noimageai"),
        (blocked, "blocked-hash", "listed-bytes"),
        (sample(104, url="https://img.bad.test/1.jpg"), "blocked-url", "listed-domain"),
        (sample(105, image=encode(scene(105, (90, 20)))), "size", "too-small"),
        (sample(106, image=encode(scene(106, (300, 60)))), "size", "too-long"),
        (sample(107, image=b"\x89PNG\r\n\x1a\n damaged"), "size", "not-an-image"),
        (sample(108, "IMG_2041.JPG"), "caption", "file-name"),
        (sample(109, "!!"), "caption", "few-letters"),
        (sample(110, "ein roter Hund auf der Straße"), "language", "other-language"),
        *((sample(seed, "Great picture here"), "repeated-caption", "too-frequent")
          for seed in (111, 112, 113)),
        (sample(114, image=good(3).image), "exact-duplicate", "same-bytes"),
        (sample(115, image=encode(scene(4), "JPEG")), "near-duplicate", "near-picture"),
        (sample(116, image=encode(scene(5).resize((48, 40)), "WEBP")), "near-duplicate",
         "near-picture"),
        (sample(117, image=encode(scene(117))[:-40]), "near-duplicate", "not-an-image"),
    ]  # fmt: skip
    samples = [good(seed) for seed in range(GOOD)]
    for place, (one, _, _) in enumerate(bad):
        samples.insert(6 + 2 * place, one)
    return {one.key: (name, reason) for one, name, reason in bad}, samples, blocked


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Shards with planted faults, and lists that name two of them."""
    folder = tmp_path_factory.mktemp("desk")
    faults, samples, blocked = planted()
    shards(folder / "in", samples)
    (folder / "hashes.txt").write_text(hashlib.sha256(blocked.image).hexdigest() + "\n")
    (folder / "urls.txt").write_text("bad.test\n")
    return folder, faults, samples


def all_filters(folder):
    """One of each that needs no model; set filters first, to see that they come last."""
    return [
        RepeatedCaptions(2), ExactDuplicates(), NearDuplicates(), OptOutFilter(),
        HashBlocklist(folder / "hashes.txt"), UrlBlocklist(folder / "urls.txt"),
        SizeFilter(30, 4.0), CaptionFilter(clean=True, min_letters=0.5), LanguageFilter(["en"]),
    ]  # fmt: skip


def run(source, filters, output, max_bad=0.0, **options):
    bad = BadSamples("skip", max_bad)
    return filter_shards(ShardDataset.open(source, bad=bad), filters, output, bad=bad, **options)


@pytest.fixture(scope="module")
def filtered(desk):
    folder, _, _ = desk
    report = run(folder / "in", all_filters(folder), folder / "out", max_count=10)
    lines = (folder / "out/dropped.jsonl").read_text().splitlines()
    manifest = json.loads((folder / "out/manifest.json").read_text())
    return report, [json.loads(line) for line in lines], manifest


def test_each_planted_fault_goes_for_its_reason_and_nothing_else_goes(desk, filtered):
    folder, faults, _ = desk
    _, dropped, _ = filtered
    assert {line["key"]: (line["filter"], line["reason"]) for line in dropped} == faults
    assert len(dropped) == len(faults)
    kept = [one.key for one in read_shards(folder / "out/shards")]
    assert kept == [f"{seed:06d}" for seed in range(GOOD)]


def test_what_stays_is_unchanged(desk, filtered):
    folder, _, samples = desk
    there = {one.key: one for one in samples}
    for one in read_shards(folder / "out/shards"):
        assert one.image == there[one.key].image
        assert one.captions == there[one.key].captions
        assert {k: v for k, v in one.meta.items() if k != "captions"} == there[one.key].meta


def test_duplicates_name_the_one_that_stays(filtered):
    _, dropped, _ = filtered
    assert {line["key"]: line["of"] for line in dropped if "of" in line} == {
        "000114": "000003", "000115": "000004", "000116": "000005",
    }  # fmt: skip


def test_counts_add_up(desk, filtered):
    report, dropped, manifest = filtered
    assert manifest["samples"] == {"found": len(desk[2]), "kept": GOOD}
    before = len(desk[2])
    for account in manifest["filters"]:
        assert account["before"] == before
        before -= account["dropped"]
        assert account["after"] == before
        assert sum(account["reasons"].values()) == account["dropped"]
        assert account["dropped"] == sum(line["filter"] == account["filter"] for line in dropped)
    assert before == report.kept == GOOD


def test_the_order_is_that_of_single_samples_then_of_the_set(filtered):
    assert [account["filter"] for account in filtered[2]["filters"]] == [
        "readable", "opt-out", "blocked-hash", "blocked-url", "size", "caption", "language",
        "repeated-caption", "exact-duplicate", "near-duplicate",
    ]  # fmt: skip


def test_the_manifest_says_where_all_came_from(desk, filtered):
    folder, _, samples = desk
    manifest = filtered[2]
    for part, where in (("sources", None), ("shards", folder / "out")):
        for entry in manifest[part]:
            path = where / entry["shard"] if where else entry["shard"]
            assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == entry["sha256"]
            assert entry["samples"] == len(ShardDataset.open(path, index_folder=folder / "index"))
    assert sum(entry["samples"] for entry in manifest["sources"]) == len(samples)
    assert [entry["samples"] for entry in manifest["shards"]] == [10, 10, 10, 10]
    assert manifest["licences"]["after"] == {"MIT": 14, "CC-BY-4.0": 13, "(not stated)": 13}
    assert manifest["licences"]["before"]["(not stated)"] == 13 + len(desk[1])
    assert manifest["captions"]["captions"] == manifest["captions"]["distinct"] == GOOD
    assert manifest["captions"]["words"]["median"] == 7


def test_filtering_again_drops_nothing(desk, filtered, tmp_path):
    folder, _, _ = desk
    report = run(folder / "out/shards", all_filters(folder), tmp_path / "again", max_count=10)
    assert (report.found, report.kept) == (GOOD, GOOD)
    for first in sorted((folder / "out/shards").glob("*.tar")):
        assert (tmp_path / "again/shards" / first.name).read_bytes() == first.read_bytes()


def test_any_number_of_processes_gives_the_same_files(desk, filtered, tmp_path, monkeypatch):
    monkeypatch.setattr("mmfm.data.filters.examine.CHUNK", 5)
    folder, _, _ = desk
    run(folder / "in", all_filters(folder), tmp_path / "two", max_count=10, workers=2)
    names = ["dropped.jsonl", "manifest.json", *(f"shards/0000{i}.tar" for i in range(4))]
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (folder / "out" / name).read_bytes()


def test_counting_only_writes_nothing_and_counts_the_same(desk, filtered):
    folder, _, _ = desk
    there = sorted(folder.iterdir())
    report = run(folder / "in", all_filters(folder), None)
    assert report.facts() == filtered[0].facts()
    assert sorted(folder.iterdir()) == there


def test_counts_of_single_sample_filters_do_not_depend_on_the_order_of_samples(desk, tmp_path):
    folder, _, samples = desk
    order = np.random.default_rng(0).permutation(len(samples))
    shards(tmp_path / "mixed", [samples[place] for place in order])
    there, mixed = (
        run(source, [*all_filters(folder)[3:], RepeatedCaptions(2)], None).facts()
        for source in (folder / "in", tmp_path / "mixed")
    )
    assert there == mixed


def test_unreadable_samples_are_dropped_listed_and_limited(desk, tmp_path, make_tar):
    members = []
    for seed in range(120):
        data = good(seed).image
        texts = b'{"captions": "not a list"}' if seed in (7, 90) else b"{}"
        members += [(f"{seed:03d}.json", texts), (f"{seed:03d}.png", data)]
        members += [(f"{seed:03d}.txt", b"a scene")]
    (tmp_path / "bad.tar").write_bytes(make_tar(members))
    report = run(tmp_path / "bad.tar", [], tmp_path / "out", max_bad=0.05)
    assert (report.found, report.kept) == (120, 118)
    lines = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").open()]
    assert [(line["key"], line["filter"], line["reason"]) for line in lines] == [
        ("007", "readable", "bad-text"), ("090", "readable", "bad-text"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="more than the allowed"):
        run(tmp_path / "bad.tar", [], tmp_path / "none", max_bad=0.01)
    assert not (tmp_path / "none").exists()
    assert not [path for path in tmp_path.iterdir() if "unfinished" in path.name]


def test_a_shard_that_is_cut_off_or_missing_is_on_record_and_the_others_are_filtered(tmp_path):
    folder = shards(tmp_path / "in", [good(seed) for seed in range(30)], max_count=10)
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[: len(whole) // 2])
    sources = [*sorted(folder.glob("*.tar")), folder / "none.tar"]
    report = run(sources, [], tmp_path / "out", max_bad=0.9)
    assert 20 < report.kept < 30
    reasons = report.accounts[0].reasons
    assert reasons["truncated"] == reasons["missing-shard"] == 1
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert [entry["sha256"] is None for entry in manifest["sources"]] == [False] * 3 + [True]
    assert len(read := list(read_shards(tmp_path / "out/shards"))) == report.kept
    assert read[0].image == good(0).image


def test_filters_may_serve_twice(desk):
    folder, _, _ = desk
    filters = all_filters(folder)
    first, second = (run(folder / "in", filters, None).facts() for _ in range(2))
    assert first == second


def test_a_folder_in_use_is_refused_and_left_alone(desk, tmp_path):
    folder, _, _ = desk
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="in use"):
        run(folder / "in", [], tmp_path)
    with pytest.raises(OutputError, match="in use"):
        run(folder / "in", [], folder / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert run(folder / "in", [], tmp_path / "empty").kept == len(desk[2])


def test_keys_that_come_twice_are_refused_at_once_or_numbered(tmp_path):
    for name in "ab":
        shards(tmp_path / name, [sample(seed) for seed in range(3)])
    both = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(DataError, match=r"3 sample keys come twice.*--rekey"):
        run(both, [], tmp_path / "out")
    report = run(both, [ExactDuplicates()], tmp_path / "out", rekey=True)
    kept = list(read_shards(tmp_path / "out/shards"))
    assert report.kept == 3
    assert [(one.key, one.meta["source_key"]) for one in kept] == [
        (f"{number:09d}", f"{number:06d}") for number in range(3)
    ]


def test_warnings_say_what_a_filter_could_not_know(desk):
    folder, _, _ = desk
    report = run(folder / "in", [OptOutFilter(["no_such_field"])], None)
    assert report.warnings == [
        "no sample that was kept has a field 'no_such_field' to opt out with"
    ]


def scored(values, **settings):
    one = ScoreFilter(lambda rows: np.array(values, np.float32)[rows], {"model": "m"}, **settings)
    return {row: drop.reason for row, drop in one.judge_all(np.arange(len(values)))}


def test_scores_keep_the_high_and_the_best_share():
    values = [0.3, 0.1, math.nan, 0.3, 0.2, -0.1]
    assert scored(values, minimum=0.2) == {1: "low-score", 2: "nothing-to-score", 5: "low-score"}
    assert scored(values, keep=0.4) == {
        1: "not-among-the-best", 2: "nothing-to-score", 4: "not-among-the-best",
        5: "not-among-the-best",
    }  # fmt: skip
    assert scored([0.5, 0.5, 0.5], keep=0.5) == {2: "not-among-the-best"}  # of equals the first
    assert scored(values, keep=1.0) == {2: "nothing-to-score"}
    for settings in ({"minimum": 2.0}, {"keep": 0.0}, {"keep": 1.5}):
        with pytest.raises(DataError):
            scored(values, **settings)
