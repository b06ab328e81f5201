"""Texts: nothing empty, nothing cut in silence."""

import warnings

import pytest
from open_clip.tokenizer import SimpleTokenizer

from mmfm.errors import TextError
from mmfm.preprocess.text import check_texts, truncate_check


def test_one_or_many():
    assert check_texts("a cat") == ["a cat"]
    assert check_texts(["a cat", " a dog "]) == ["a cat", " a dog "]
    assert check_texts(text for text in ("x",)) == ["x"]


@pytest.mark.parametrize("texts", [[], "", "  \n", ["a", ""], [1], 1, None, b"bytes", ["a", None]])
def test_refused(texts):
    with pytest.raises(TextError):
        check_texts(texts)


def test_the_place_of_a_bad_text_is_named():
    with pytest.raises(TextError, match="Text 1 of 3"):
        check_texts(["a", "", "b"])


@pytest.fixture(scope="module")
def tokenizer():
    return SimpleTokenizer()


def test_short_texts_pass_in_silence(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        truncate_check(tokenizer, ["a cat", "a b c d e f"], 8, "warn")
        truncate_check(tokenizer, ["a b c d e f"], 8, "error")


def test_the_cut_part_is_shown(tokenizer):
    with pytest.warns(UserWarning, match=r"\"zebra\".*1 of 2"):
        truncate_check(tokenizer, ["a b c d e f zebra", "a cat"], 8)
    with pytest.raises(TextError, match="zebra"):
        truncate_check(tokenizer, ["a b c d e f zebra"], 8, "error")


def test_the_room_is_what_the_tokenizer_keeps(tokenizer):
    text = "one two three four five six seven"
    kept = tokenizer([text], context_length=8)[0].tolist()
    assert kept[1:-1] == tokenizer.encode(text)[:6]


def test_an_unknown_policy_is_refused(tokenizer):
    with pytest.raises(TextError, match="warn"):
        truncate_check(tokenizer, ["a"], 8, "silent")
