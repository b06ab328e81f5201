"""The whole program on a few hand-made icons: from archives to shards."""

import io
import json
import re

import pytest
from PIL import Image

from data_pipelines.drawing import split_of
from data_pipelines.drawings import GROUPS, build, choose_sets, main
from data_pipelines.sources.emojibase import read_emoji_texts
from data_pipelines.sources.iconify import iconify_drawings, read_sets
from mmfm.data import read_shards
from mmfm.errors import DataError
from tests.data_pipelines.handmade import install_client

SETS = "noto,flat-ui,fluent-color"


def read_all(folder) -> dict:
    return {
        sample.meta["key"]: (split, sample)
        for split in ("train", "test", "unseen")
        for sample in read_shards(folder / split)
    }


def test_archives_become_captioned_shards(cache, tmp_path):
    counts = build(tmp_path / "out", cache, sets=SETS, size=32, workers=1)
    samples = read_all(tmp_path / "out")
    assert sum(counts.values()) == len(samples)
    assert sorted(samples) == [
        "flat-ui:book-1", "flat-ui:book-3", "fluent-color:cube-24", "noto:flag-france",
        "noto:red-apple", "noto:waving-hand", "noto:waving-hand-medium-light-skin-tone",
    ]  # fmt: skip
    for split, sample in samples.values():
        meta = sample.meta
        image = Image.open(io.BytesIO(sample.image))
        assert (image.mode, image.size, image.format) == ("RGBA", (32, 32), "PNG")
        assert split == split_of(meta["key"], meta["concept"])
        assert sample.captions[0] == meta["name"] and len(sample.captions) >= 2
        assert re.fullmatch(r"\d{9}", sample.key)
    hand = samples["noto:waving-hand-medium-light-skin-tone"][1].meta
    assert hand["name"] == "waving hand medium light skin tone"
    assert (hand["concept"], hand["skin_tone"]) == ("waving hand", "medium light")
    assert hand["keywords"] == ["bye", "wave"] and hand["category"] == "people and body"
    assert hand["license"] == "Apache-2.0" and hand["author"] == "A. Hand"
    apple = samples["noto:red-apple"][1]
    assert apple.captions[-1] == "keywords: apple, fruit"
    assert samples["noto:flag-france"][1].captions[0] == "flag of france"
    assert samples["fluent-color:cube-24"][1].meta["name"] == "cube"


def test_the_manifest_accounts_for_every_drawing(cache, tmp_path):
    counts = build(tmp_path, cache, sets=SETS, size=16, workers=1)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["samples"] == counts and manifest["size"] == 16
    assert all(re.fullmatch("[0-9a-f]{64}", sha) for sha in manifest["archives_sha256"].values())
    for facts in manifest["sets"].values():
        assert facts["found"] == facts["kept"] + sum(facts["dropped"].values())
    assert manifest["sets"]["flat-ui"]["dropped"] == {
        "blank or unreadable": 1,
        "embeds a bitmap": 1,
        "exact duplicate": 1,
        "logo or brand": 1,
        "names no colour": 1,
        "near duplicate": 1,
        "needs a font": 1,
        "no usable name": 1,
        "takes its colour from the page": 1,
    }
    assert manifest["sets"]["fluent-color"]["dropped"] == {"smaller size of the same icon": 2}
    attribution = (tmp_path / "ATTRIBUTION.md").read_text()
    assert "rasterised to 16 px" in attribution
    assert "| noto | A. Hand | <https://x.example> | [Apache-2.0]" in attribution


def test_equal_builds_are_equal_and_workers_change_nothing(cache, tmp_path):
    for name, workers in (("a", 1), ("b", 2)):
        build(tmp_path / name, cache, sets=SETS, size=16, workers=workers)
    files = [
        {path.relative_to(tmp_path / name): path.read_bytes()
         for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in "ab"
    ]  # fmt: skip
    assert files[0] == files[1]


def test_limit_is_a_part_of_the_whole(cache, tmp_path):
    build(tmp_path / "whole", cache, sets=SETS, size=16, workers=1)
    counts = build(tmp_path / "part", cache, sets=SETS, size=16, limit=3, workers=1)
    assert 1 <= sum(counts.values()) <= 3
    manifest = json.loads((tmp_path / "part" / "manifest.json").read_text())
    for facts in manifest["sets"].values():
        assert facts["found"] == facts["kept"] + sum(facts["dropped"].values())


def test_a_set_under_another_licence_is_refused(cache, tmp_path):
    with pytest.raises(DataError, match=r"marketeq is under CC-BY-NC-4\.0"):
        build(tmp_path / "out", cache, sets="marketeq", workers=1)


def test_open_clip_art(clip_art_cache, tmp_path):
    from data_pipelines.sources.openclipart import openclipart_drawings

    vocabulary = {"apple", "key", "france", "flag", "watch", "red"}
    drawings, report = openclipart_drawings(clip_art_cache, vocabulary)
    assert [(one.icon, one.name) for one in drawings] == [
        ("food/fruit/apple_jane_doe_01", "apple"),
        ("signs_and_symbols/flags/europe/france", "flag of france"),
        ("tools/key1", "key"),
    ]
    assert drawings[0].keywords == ("fruit",) and drawings[0].category == "food fruit"
    assert (drawings[0].author, drawings[0].license) == ("Jane Doe", "CC-PDDC")
    assert dict(report.dropped) == {
        "dull series or folder": 1, "not English": 1, "not tagged public domain": 1, "no PNG": 1,
    }  # fmt: skip


def test_emoji_are_found_by_code_point_and_by_older_names(cache):
    texts = read_emoji_texts(cache)
    assert texts.by_code("231a").name == "watch"
    assert texts.by_slug("flag-for-france").name == "flag of france"
    assert texts.by_slug("france").name == "flag of france"
    assert texts.by_slug("red-apple-2").name == "red apple"
    assert texts.by_glued("redapple").name == "red apple"
    assert texts.by_glued("u1F34E-redapple").name == "red apple"
    assert texts.by_glued("nothing") is None
    assert texts.by_code("1f468-200d-1f9b0").name == "man with red hair"
    assert texts.by_code("1f3ff").skin_tone is None
    kiss = texts.by_code("1f48f-1f3fd-1f3ff")
    assert (kiss.name, kiss.concept) == (
        "kiss woman man medium and dark skin tone",
        "kiss woman man",
    )


def test_gradients_of_one_icon_do_not_reach_another(cache):
    """Every icon is a document of its own, so equal ids cannot meet."""
    drawings, _ = iconify_drawings("noto", read_sets(["noto"], cache), read_emoji_texts(cache))
    assert all(one.svg.count("<svg") == 1 and one.svg.endswith("</svg>") for one in drawings)


def test_choosing_sets():
    assert choose_sets("twemoji, noto,noto") == ["noto", "twemoji"]
    assert choose_sets("emoji") == list(GROUPS["emoji"])
    assert choose_sets("all")[-1] == "openclipart" and len(GROUPS["pictorial"]) == 24
    for bad, message in (("nope", "no set or group 'nope'"), (" ,", "no sets")):
        with pytest.raises(DataError, match=message):
            choose_sets(bad)


def error_line(capsys, *arguments: str) -> str:
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_a_missing_client_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    line = error_line(capsys, "-o", str(tmp_path / "o"), "--cache", str(tmp_path / "c"))
    assert "`npm` was not found" in line


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb"])
def test_a_missing_debian_client_is_one_sentence(cache, tmp_path, monkeypatch, capsys, missing):
    from data_pipelines.sources.openclipart import openclipart_drawings

    if missing == "dpkg-deb":
        (cache / "openclipart-svg_1_all.deb").touch()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=f"`{missing}` was not found"):
        openclipart_drawings(cache, set())


def test_a_failing_client_is_one_sentence(tmp_path, monkeypatch, capsys):
    install_client(
        tmp_path / "bin", "npm", "echo 'npm error no such host' >&2; exit 1", monkeypatch
    )
    line = error_line(capsys, "-o", str(tmp_path / "o"), "--cache", str(tmp_path / "c"))
    assert "no such host" in line
    assert not list((tmp_path / "c").glob("*.tgz"))


def test_a_broken_archive_is_one_sentence(cache, tmp_path, capsys):
    archive = cache / "emojibase-data-17.0.0.tgz"
    archive.write_bytes(archive.read_bytes()[:200])
    line = error_line(capsys, "-o", str(tmp_path / "o"), "--cache", str(cache), "--sets", "noto")
    assert "emojibase-data-17.0.0.tgz cannot be read" in line


def test_an_unwritable_output_is_one_sentence(cache, tmp_path, capsys):
    (tmp_path / "file").touch()
    line = error_line(capsys, "-o", str(tmp_path / "file" / "o"), "--cache", str(cache))
    assert "cannot make the folder" in line
