"""Our reading of CLIP's BPE gives open_clip's ids on any text, without importing torch."""

import json
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

import mmfm
from mmfm.encoders import bpe
from mmfm.errors import ModelError

THEIRS = SimpleTokenizer()
OURS = bpe.ClipTokenizer()
ODD = "ab'stmdlrev <>_&;\"01²½١éßſİ中😀ﬁＡ\u0301\u200d\xa0\x1b\x1c\x85\t\n\r\ud800.,!?#|-"
WORDS = ["&amp;", "&lt;b&gt;", "it's", "I'LL", "<start_of_text>", "<END_OF_TEXT>", "â€œx", "x" * 99]


def test_the_tables_are_the_same():
    assert [THEIRS.decoder[number] for number in range(THEIRS.vocab_size)] == OURS._symbols
    assert (OURS.start, OURS.end) == (THEIRS.sot_token_id, THEIRS.eot_token_id)


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text(ODD) | st.lists(st.sampled_from(WORDS) | st.text(ODD)).map("".join))
@example("")
@example("The quick brown fox jumps over 12,345 lazy dogs -- isn't that so?")
def test_any_text_has_the_ids_that_open_clip_gives_it(text):
    ids = THEIRS.encode(text)
    assert OURS.encode(text) == ids
    assert OURS.decode(ids) == THEIRS.decode(ids)
    assert OURS.decode(ids[1:-1]) == THEIRS.decode(ids[1:-1])  # a character may be cut in two


@settings(max_examples=150, deadline=None)
@given(st.text("".join(map(chr, range(32, 127)))))
def test_a_plain_text_needs_neither_ftfy_nor_regex(text):
    whole = bpe._PLAIN
    try:
        quick = OURS.encode(text)
        bpe._PLAIN = bpe.re.compile(r"(?!)")  # matches nothing
        assert OURS.encode(text) == quick == THEIRS.encode(text)
    finally:
        bpe._PLAIN = whole


def test_all_names_of_the_gallery_have_the_same_ids():
    lines = (Path(mmfm.__file__).parent / "gallery/captions.jsonl").read_text("utf-8").splitlines()
    names = [text for line in lines for text in json.loads(line).values() if isinstance(text, str)]
    assert len(names) > 200
    for name in names:
        assert OURS.encode(name) == THEIRS.encode(name), name


def test_words_are_read_without_torch():
    code = (
        "from mmfm.encoders.bpe import ClipTokenizer as T; import sys; T().encode('naïve ☃ tree');"
        "print([m for m in ('torch', 'open_clip') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("damage", ["missing", "short", "no gzip"])
def test_a_damaged_table_is_told(tmp_path, monkeypatch, damage):
    import gzip

    there = Path(open_clip.__file__).parent / bpe._FILE
    folder = tmp_path / "open_clip"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    if damage == "short":
        text = gzip.decompress(there.read_bytes())[:100_000]
        (folder / bpe._FILE).write_bytes(gzip.compress(text))
    elif damage == "no gzip":
        (folder / bpe._FILE).write_bytes(b"words")
    monkeypatch.setattr(bpe.importlib.util, "find_spec", _spec(folder))
    with pytest.raises(ModelError, match="install open_clip again"):
        bpe.ClipTokenizer()


def test_a_missing_open_clip_is_told(monkeypatch):
    monkeypatch.setattr(bpe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install open_clip_torch"):
        bpe.ClipTokenizer()


def _spec(folder):
    from importlib.machinery import ModuleSpec

    spec = ModuleSpec("open_clip", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return lambda name: spec
