"""A remembered hash is given only for the very file that it was computed from."""

import json
import os

import pytest

from mmfm.encoders import hash_memory

OLD = 1_600_000_000


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setenv("MMFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_memory, "_YOUNG_NS", -(10**12))  # a file just made counts as old
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    return path


def keep(path, value="h1", config="c"):
    hash_memory.remember(path, os.stat(path), config, value)


def recalled(path, config="c"):
    return hash_memory.recall(path, os.stat(path), config)


def test_what_is_remembered_is_recalled(weights):
    assert recalled(weights) is None
    keep(weights)
    assert recalled(weights) == "h1"
    keep(weights, "h2")
    assert recalled(weights) == "h2"


def test_another_config_or_file_is_not_it(weights, tmp_path):
    keep(weights)
    assert recalled(weights, "d") is None
    other = tmp_path / "other"
    other.write_bytes(b"one")
    assert recalled(other) is None


def test_a_file_changed_in_place_and_given_its_old_date_is_noticed(weights):
    os.utime(weights, (OLD, OLD))
    keep(weights)
    assert recalled(weights) == "h1"
    weights.write_bytes(b"two")
    os.utime(weights, (OLD, OLD))
    assert os.stat(weights).st_size == 3 and os.stat(weights).st_mtime == OLD
    assert recalled(weights) is None


def test_a_file_put_in_its_place_is_noticed(weights, tmp_path):
    os.utime(weights, (OLD, OLD))
    keep(weights)
    (tmp_path / "new").write_bytes(b"two")
    os.utime(tmp_path / "new", (OLD, OLD))
    os.replace(tmp_path / "new", weights)
    assert recalled(weights) is None


def test_a_young_file_is_not_remembered(weights, monkeypatch):
    monkeypatch.setattr(hash_memory, "_YOUNG_NS", 2_000_000_000)
    keep(weights)
    assert recalled(weights) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"of": 1}', "\xff"])
def test_a_damaged_memory_remembers_nothing(weights, text):
    keep(weights)
    [place] = hash_memory._place(weights).parent.iterdir()
    assert json.loads(place.read_text())["hash"] == "h1"
    place.write_text(text, encoding="latin-1")
    assert recalled(weights) is None
    keep(weights)
    assert recalled(weights) == "h1"


def test_a_cache_that_cannot_be_written_stops_nothing(weights, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MMFM_CACHE", str(tmp_path / "file"))
    keep(weights)
    assert recalled(weights) is None
