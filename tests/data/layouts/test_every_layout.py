"""Laws that hold for every layout alike."""

import json
import shutil

import pytest

from mmfm.data.bad import BadSamples
from mmfm.data.layouts import open_layout
from mmfm.data.shards import write_shards
from mmfm.preprocess.images import load_image


def samples(path, **options):
    return list(open_layout(path).samples(BadSamples(), **options))


def test_every_picture_comes_with_what_is_said_of_it(any_layout):
    root, captions = any_layout
    layout = open_layout(root)
    found = list(layout.samples(BadSamples()))
    assert [sample.captions for sample in found] == captions
    assert layout.count() == len(captions)
    for sample in found:
        image = load_image(sample.image)
        assert image.size == (sample.meta["width"], sample.meta["height"])


def test_sharding_and_reading_again_changes_nothing(any_layout, tmp_path):
    root, captions = any_layout
    first = samples(root)
    assert write_shards(iter(first), tmp_path / "shards", max_count=2) == len(captions)
    assert samples(tmp_path / "shards") == first


def test_keys_are_unique_and_fit_for_a_shard(any_layout):
    keys = [sample.key for sample in samples(any_layout[0])]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and key.replace("-", "").isalnum() for key in keys)


def test_keys_do_not_depend_on_where_the_folder_lies(any_layout, tmp_path):
    root, _ = any_layout
    before = samples(root)
    shutil.move(root, tmp_path / "moved" / "elsewhere")
    assert samples(tmp_path / "moved" / "elsewhere") == before


def test_some_places_are_those_of_the_whole(any_layout):
    root, captions = any_layout
    layout = open_layout(root)
    whole = list(layout.entries(BadSamples()))
    places = range(1, len(captions), 2)
    some = list(layout.entries(BadSamples(), places))
    assert some == [whole[place] for place in places]
    assert [entry.read() for entry in some] == [whole[place].read() for place in places]


def test_entries_can_be_gone_through_twice_at_once(any_layout):
    layout = open_layout(any_layout[0])
    pairs = list(zip(layout.entries(BadSamples()), layout.entries(BadSamples()), strict=True))
    assert pairs and all(one == two for one, two in pairs)


def test_a_picture_cut_short_is_the_only_one_lost(any_layout):
    root, captions = any_layout
    pictures = [path for path in root.rglob("*") if path.suffix in (".jpg", ".png", ".bmp")]
    if not pictures:  # they lie inside other files, see test_tars.py
        return
    victim = sorted(pictures)[0]
    victim.write_bytes(victim.read_bytes()[:300])
    bad = BadSamples("skip", max_fraction=1.0)
    assert len(list(open_layout(root).samples(bad))) == len(captions) - 1
    assert bad.num_seen == len(captions)
    [record] = bad.records
    assert victim.name in record["message"]
    assert record["cause"] == "damaged"


def test_meta_is_fit_for_json(any_layout):
    for sample in samples(any_layout[0]):
        assert json.loads(json.dumps(sample.meta, allow_nan=False)) == sample.meta


@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_gives_the_same(any_layout, workers):
    root, _ = any_layout
    assert samples(root, workers=workers, size=9) == samples(root, size=9)
