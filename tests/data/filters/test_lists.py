"""Sizes, block lists and opt-outs: what is named goes, what is not stays."""

import hashlib

import pytest
from PIL import Image

from mmfm.data.filters import HashBlocklist, OptOutFilter, SizeFilter, UrlBlocklist
from mmfm.errors import DataError, ImageError
from tests.data.filters.pictures import encode, sample

OUT = [
    {"noai": True}, {"noimageai": 1}, {"opt_out": "yes"}, {"Opt-Out": "TRUE"}, {"optout": "maybe"},
    {"X-Robots-Tag": "noai"}, {"x_robots_tag": "googlebot: nofollow, NoImageAI"},
    {"robots": ["index", "noai"]}, {"headers": {"X-Robots-Tag": "noindex, noimageai"}},
    {"tdm-reservation": "1"}, {"no-ai": {"image": True}}, {"opt_out": "да"},
]  # fmt: skip
IN = [
    {}, {"noai": False}, {"noai": 0}, {"opt_out": None}, {"opt_out": ""}, {"opt-out": "no"},
    {"optout": "0.0"}, {"opt_out": float("nan")}, {"opt_out": []},
    {"X-Robots-Tag": "index, follow"},
    {"X-Robots-Tag": "noindex"}, {"robots": "all"}, {"text": "noai", "title": "opt_out"},
    {"tdm_reservation": 0}, {"headers": {"Server": "noai"}}, {"noai": "all"},
]  # fmt: skip


@pytest.mark.parametrize("meta", OUT)
def test_an_opt_out_is_honoured(meta):
    drop = OptOutFilter().judge(sample(1, **{"url": "https://a.example/1.jpg", **meta}))
    assert drop is not None and drop.reason in ("opted-out", "noai", "noimageai")


@pytest.mark.parametrize("meta", IN)
def test_who_did_not_opt_out_stays(meta):
    assert OptOutFilter().judge(sample(1, **meta)) is None


def test_a_column_of_ones_own():
    meta = {"Artist says no": "y"}
    assert OptOutFilter().judge(sample(1, **meta)) is None
    own = OptOutFilter(["artist_says_no"])
    assert own.judge(sample(1, **meta)).value == "Artist says no: y"
    assert own.judge(sample(1, **{"artist-says-no": "n"})) is None
    assert "artist_says_no" in own.warning({"url": 3}, kept=3)
    assert own.warning({"Artist says no": 1}, kept=3) is None


@pytest.fixture
def listing(tmp_path):
    def write(*lines):
        path = tmp_path / "list.txt"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def test_blocked_hashes(listing):
    blocked, original = sample(1), "ab" * 32
    digest = hashlib.sha256(blocked.image).hexdigest()
    one = HashBlocklist(listing("# bad ones", digest.upper(), f"{original}  # why", ""))
    assert one.judge(blocked).reason == "listed-bytes"
    assert one.judge(sample(2, sha256=original.upper())).reason == "listed-original"
    assert one.judge(sample(2, sha256="cd" * 32)) is None
    assert one.judge(sample(2, sha256="no hash")) is None
    assert one.settings()["entries"] == 2


LIST = ("example.com", "https://pictures.test/a/b.jpg  # one picture", "HTTP://WWW.Upper.Test/",
        "cdn.shop.test:8080", "plain.test/x?id=3")  # fmt: skip


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.com/cat.jpg", "listed-domain"),
        ("http://IMG.Example.com:81/cat.jpg?x#y", "listed-domain"),
        ("https://user@example.com/", "listed-domain"),
        ("//example.com/1", "listed-domain"),
        ("https://upper.test/1.png", "listed-domain"),
        ("https://www.upper.test/1.png", "listed-domain"),
        ("http://cdn.shop.test/1.png", "listed-domain"),
        ("http://pictures.test/a/b.jpg#top", "listed-url"),
        ("https://plain.test/x?id=3", "listed-url"),
        ("https://pictures.test/a/c.jpg", None),
        ("https://plain.test/x?id=4", None),
        ("https://notexample.com/cat.jpg", None),
        ("https://example.com.evil.test/cat.jpg", None),
        ("https://shop.test/1.png", None),
        ("https://other.test/?from=example.com", None),
        ("https://[broken/", None),
        ("", None),
    ],
)
def test_blocked_urls(listing, url, reason):
    drop = UrlBlocklist(listing(*LIST)).judge(sample(1, url=url))
    assert (drop and drop.reason) == reason


def test_the_column_of_the_url_can_be_named(listing):
    one = UrlBlocklist(listing("example.com"), columns=["origin"])
    assert one.judge(sample(1, origin="https://example.com/1")) is not None
    assert one.judge(sample(1, url="https://example.com/1")) is None
    assert "2 of 5" in one.warning({"origin": 3}, kept=5)
    assert one.warning({"origin": 5}, kept=5) is None


@pytest.mark.parametrize(
    ("make", "lines", "words"),
    [
        (HashBlocklist, ["abc"], "line 1.*64 hex digits"),
        (HashBlocklist, ["# nothing"], "holds no entry"),
        (UrlBlocklist, ["example.com", "not a domain"], "line 2.*wanted example.com"),
        (UrlBlocklist, ["/only/a/path"], "line 1"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(listing, make, lines, words):
    with pytest.raises(DataError, match=words):
        make(listing(*lines))


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.txt cannot be read"):
        HashBlocklist(tmp_path / "nothing.txt")


def sized(width, height, kind="PNG"):
    return sample(1, image=encode(Image.new("RGB", (width, height)), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_sizes_are_read_from_the_header(kind):
    one = SizeFilter(min_side=20, max_aspect=2.0)
    assert one.judge(sized(40, 20, kind)) is None
    assert one.judge(sized(20, 40, kind)) is None
    assert one.judge(sized(100, 19, kind)).reason == "too-small"
    assert one.judge(sized(41, 20, kind)).reason == "too-long"
    assert one.judge(sized(20, 60, kind)).value == 3.0


def test_what_is_no_picture_has_no_size():
    with pytest.raises(ImageError):
        SizeFilter().judge(sample(1, image=b"\x89PNG but no more"))
    for values in ({"min_side": 0}, {"max_aspect": 0.5}, {"max_aspect": float("nan")}):
        with pytest.raises(DataError):
            SizeFilter(**values)
