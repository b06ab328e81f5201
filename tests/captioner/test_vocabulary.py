import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfm.captioner import Vocabulary, encode_batch
from mmfm.errors import ModelError, TextError

KNOWN_AND_UNKNOWN = [
    "red apple",
    "an octopus on a xylophone",
    "zażółć gęślą jaźń",
    "日本語の 絵文字",
    "👩‍👩‍👧 family",
    "flag: são tomé & príncipe",
    "keycap: 10",
    "twelve o'clock",
    "woman's t-shirt (blue)",
    "a, b, c!",
    "rock 'n' roll",
]


@pytest.mark.parametrize("text", KNOWN_AND_UNKNOWN)
def test_decode_undoes_encode_on_any_words(vocabulary, text):
    expected = "rock'n'roll" if text.startswith("rock") else text  # the one spacing not kept
    assert vocabulary.decode(vocabulary.encode(text)) == expected


def test_encoding_lower_cases_and_joins_white_space(vocabulary):
    assert vocabulary.decode(vocabulary.encode("  Red \n APPLE ")) == "red apple"


@given(st.lists(st.integers(-3, 600), max_size=20))
def test_every_ids_decode_to_valid_stable_text(vocabulary, ids):
    text = vocabulary.decode(ids)
    assert text == text.strip()
    assert "\ufffd" not in text and "</w>" not in text
    assert text.encode("utf-8").decode("utf-8") == text
    assert all(0 <= i < vocabulary.start_id for i in vocabulary.encode(text))


def test_tokens_seen_too_rarely_fall_apart_but_keep_the_text(tokenizer):
    texts = ["apple", "apple", "banana"]
    vocabulary = Vocabulary.build(texts, tokenizer, min_count=2)
    assert len(vocabulary) == 512 + 1 + 2
    assert len(vocabulary.encode("apple")) == 1
    assert len(vocabulary.encode("banana")) == 6
    assert vocabulary.decode(vocabulary.encode("apple banana")) == "apple banana"


def test_list_form_survives_json(vocabulary, tokenizer):
    again = Vocabulary.from_list(json.loads(json.dumps(vocabulary.to_list())), tokenizer)
    assert again.to_list() == vocabulary.to_list()
    assert (len(again), again.start_id, again.end_id) == (
        len(vocabulary),
        vocabulary.start_id,
        vocabulary.end_id,
    )
    assert again.encode("green thumbs") == vocabulary.encode("green thumbs")


def test_a_list_of_another_tokenizer_is_refused(vocabulary, tokenizer):
    with pytest.raises(ModelError, match="does not know"):
        Vocabulary.from_list([*vocabulary.to_list(), 10**6], tokenizer)
    with pytest.raises(ModelError, match="repeat"):
        Vocabulary.from_list([*vocabulary.to_list(), 0], tokenizer)
    with pytest.raises(ModelError, match="byte-level"):
        Vocabulary.from_list(vocabulary.to_list()[1:], tokenizer)


def test_typed_special_tokens_are_words(vocabulary):
    ids = vocabulary.encode("<end_of_text> a")
    assert vocabulary.end_id not in ids
    assert vocabulary.decode(ids) == "<end_of_text> a"


@pytest.mark.parametrize("value", [None, 3, b"red", "\ud800"])
def test_what_is_no_text_is_refused_or_mended(vocabulary, value):
    if isinstance(value, str):
        vocabulary.decode(vocabulary.encode(value)).encode("utf-8")
    else:
        with pytest.raises(TextError, match="pass a str"):
            vocabulary.encode(value)


def test_batches_mark_text_and_end_as_targets(vocabulary):
    ids, target_mask = encode_batch(vocabulary, ["", "red"], ["thumbs up", "apple"], 20)
    start, end = vocabulary.start_id, vocabulary.end_id
    red, apple, thumbs, up = (vocabulary.encode(w)[0] for w in ("red", "apple", "thumbs", "up"))
    assert ids.tolist() == [[start, thumbs, up, end], [start, red, apple, end]]
    assert target_mask.tolist() == [[True, True, True, False], [False, True, True, False]]


def test_a_text_that_does_not_fit_is_cut_and_has_no_end(vocabulary):
    ids, target_mask = encode_batch(vocabulary, [""], ["red apple red apple"], 4)
    assert ids.shape == (1, 4) and vocabulary.end_id not in ids.tolist()[0]
    assert target_mask.tolist() == [[True, True, True, False]]
    with pytest.raises(TextError, match="no room"):
        encode_batch(vocabulary, ["red apple red"], ["apple"], 4)
