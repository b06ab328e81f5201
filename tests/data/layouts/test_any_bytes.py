"""Whatever bytes a table or text holds, it is read or refused in one sentence; nothing crashes."""

import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mmfm.data.bad import BadSamples
from mmfm.data.layouts import open_layout
from mmfm.errors import InputError

WORDS = [
    "file_name",
    "text",
    "1.jpg",
    '"',
    ",",
    "\t",
    "|",
    "\n",
    "\r",
    "[",
    "{",
    ":",
    "é",
    "\0",
    "..",
]
NEARLY = st.lists(st.sampled_from(WORDS), max_size=40).map("".join).map(str.encode)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.just("1.jpg"),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["file", "text", "x"]), inner),
).map(lambda value: json.dumps(value).encode())
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def read(path):
    """All samples, or None when it was refused; any other error fails the test."""
    try:
        bad = BadSamples("skip", max_fraction=1.0)
        samples = list(open_layout(path).samples(bad))
    except InputError as told:
        assert "\n" not in str(told)
        return None
    assert not any("\n" in record["message"] for record in bad.records)
    for sample in samples:
        assert sample.image and json.dumps(sample.meta, allow_nan=False).encode()
        "".join(sample.captions).encode()
    return samples


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
@given(data=st.binary(max_size=200) | NEARLY | JSON)
@example(data=b"\0")
@example(data=b'"a\n",b\n1,2')
@example(data=b'file_name,text\n"no\n.jpg",x')
@example(data=b'file_name,text\n1.jpg,"never closed')
@example(data=b"file_name,text\n1.jpg," + b"x" * 200_000)
@example(data=b"[" * 100_000)
@example(data=b'{"file": "1.jpg", "text": "' + b"[" * 3000 + b"]" * 3000 + b'"}')
@example(data=b'{"file": "1.jpg", "text": ' + b"9" * 5000 + b"}")
@example(data=b'{"file": "1.jpg\\u0000", "text": "x"}')
@example(data=b'{"file": "\\ud800.jpg", "text": "x"}')
@example(data=b'{"file": "1.jpg", "text": "x", "n": NaN, "m": [Infinity], "\\ud800": 1}')
@example(data=b'[{"file": {"a": 1}, "text": {"b": 2}}]')
@example(data=b'{"images": [1], "annotations": [{"image_id": [], "caption": 3}]}')
@FUZZ
def test_any_bytes_as_a_table(make, name, data):
    make.put(make.root / "1.jpg", make.encoded(1))
    read(make.put(make.root / name, data))


@given(data=st.binary(max_size=60))
@example(data=b"\xef\xbb\xbfa cat")
@FUZZ
def test_any_bytes_beside_a_picture(make, data):
    make.put(make.root / "1.jpg", make.encoded(1))
    make.put(make.root / "1.txt", data)
    make.put(make.root / "1.json", data)
    read(make.root)


@given(names=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5, unique=True))
@settings(FUZZ, max_examples=30)
def test_any_name_of_a_picture_has_its_own_key(make, names):
    made = 0
    for name in names:
        try:
            make.put(make.root / f"{name}.png".lstrip("."), make.encoded(made, "PNG"))
        except (OSError, ValueError):  # a name that this file system does not take
            continue
        made += 1
    if not made:
        return
    samples = read(make.root) or []
    assert len({sample.key for sample in samples}) == len(samples)
