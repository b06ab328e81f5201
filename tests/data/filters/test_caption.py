"""What is wrong with a caption, and what becomes of a sample that has others."""

import pytest

from mmfm.data.filters import CaptionFilter, RepeatedCaptions
from mmfm.data.filters.caption import letter_share, words
from mmfm.errors import DataError
from tests.data.filters.pictures import sample

GOOD = [
    "a red bicycle against a wall", "Cat", "portrait of J.-L. Godard, 1968", "photo of a dog",
    "an image of two trees", "una niña come una manzana", "木桌上的两杯咖啡", "24 roses",
    "the number 7", "St. John's Church", "R2-D2", "Tom & Jerry", "rose (white)",
    "3D model of a car", "P-51", "SAM 7", "dog dog cat", "5 < 6 apples", "face", "decade",
    "Mr. Smith's image in the water",
]  # fmt: skip
BAD = {
    "file-name": [
        "IMG_1234.jpg", "IMG_20200101_123456", "DSC00042", "dscn1234.JPG", "P1010023",
        "photo (3).jpg", "550e8400-e29b-41d4-a716-446655440000.jpeg",
        "Screen Shot 2020-01-02 at 10.11.12 AM", "image1", "cute_cat.png", "PXL_20210103.webp",
        "WhatsApp Image 2020-01-02", "untitled-3", "  img 7  ",
    ],
    "url": ["http://example.com/a.jpg?x=1", "see www.example.com for more", "example.com",
            "Photo from https://t.co/xyz"],
    "markup": ["<b>Sale</b> today", "cats &amp; dogs", "line one<br />line two",
               "&#39;quoted&#39;"],
    "boilerplate": ["photo", "Image", "  Click to enlarge. ", "no image", "N/A", "Untitled"],
    "identifier": ["d41d8cd98f00b204e9800998ecf8427e",
                   "550E8400-e29b-41d4-a716-446655440000"],
    "repeated-words": ["buy buy buy buy now buy buy"],
    "empty": ["", "   "],
}  # fmt: skip


@pytest.mark.parametrize("caption", GOOD)
def test_a_description_stays(caption):
    assert CaptionFilter(clean=True).fault(caption) is None


@pytest.mark.parametrize(("reason", "caption"), [(r, c) for r, many in BAD.items() for c in many])
def test_what_describes_nothing_goes_for_its_reason(reason, caption):
    fault = CaptionFilter(clean=True).fault(caption)
    assert fault is not None and fault.reason == reason


def test_without_clean_only_lengths_and_letters_count():
    assert CaptionFilter().fault("IMG_1234.jpg") is None
    assert CaptionFilter(min_words=3).fault("two words").reason == "too-few-words"
    assert CaptionFilter(min_words=3).fault("two words more") is None
    assert CaptionFilter(max_words=3).fault("one two three four").value == 4
    assert CaptionFilter(min_letters=0.5).fault("12 34 56 ab").reason == "few-letters"
    assert CaptionFilter(min_letters=0.5).fault("12 abcd") is None


def test_words_of_scripts_without_spaces_are_counted():
    assert len(words("木桌上的两杯咖啡")) == 4
    assert words("a well-known dog's nose") == ["a", "well-known", "dog's", "nose"]
    assert CaptionFilter(min_words=2).fault("夕日が沈む山") is None


def test_marks_on_letters_are_letters():
    assert letter_share("समुद्र तट") == 1.0
    assert letter_share("") == 0.0


def test_a_bad_caption_goes_and_the_sample_stays_with_the_others():
    one = CaptionFilter(clean=True)
    some = sample(1, "IMG_1.jpg", "a dog in the snow", "photo")
    assert one.judge(some) is None
    assert one.edit(some).captions == ("a dog in the snow",)
    assert one.edit(one.edit(some)) == one.edit(some)


def test_a_sample_without_a_good_caption_goes_for_the_fault_of_its_first():
    one = CaptionFilter(clean=True)
    assert one.judge(sample(1, "photo", "IMG_1.jpg")).reason == "boilerplate"
    none = sample(1)
    object.__setattr__(none, "captions", ())
    assert one.judge(none).reason == "no-caption"


@pytest.mark.parametrize(
    "values",
    [{"min_words": -1}, {"min_words": 5, "max_words": 4}, {"max_words": 0}, {"min_letters": 1.1}],
)
def test_settings_without_meaning_are_refused(values):
    with pytest.raises(DataError):
        CaptionFilter(**values)


def judged(one, samples, rows=None):
    marks = [one.measure(each) for each in samples]
    one.see(list(range(len(samples))), marks)
    return dict(one.judge_all(range(len(samples)) if rows is None else rows))


def test_captions_that_too_many_samples_carry_go_from_all_of_them():
    captions = ["Buy now!", "buy NOW", "a dog", "buy  now", "a dog", "a cat"]
    gone = judged(RepeatedCaptions(2), [sample(i, text) for i, text in enumerate(captions)])
    assert sorted(gone) == [0, 1, 3]
    assert {(drop.reason, drop.value) for drop in gone.values()} == {("too-frequent", 3)}


def test_the_order_of_samples_does_not_matter():
    captions = ["x y", "a b", "x y", "c d", "x y", "a b"]
    there = judged(RepeatedCaptions(2), [sample(i, text) for i, text in enumerate(captions)])
    back = judged(RepeatedCaptions(2), [sample(i, text) for i, text in enumerate(captions[::-1])])
    assert sorted(5 - row for row in back) == sorted(there) == [0, 2, 4]


def test_a_sample_keeps_its_rarer_captions():
    samples = [sample(i, "stock picture", f"a dog, number {i}") for i in range(3)]
    one = RepeatedCaptions(2)
    assert judged(one, samples) == {}
    assert one.edit(samples[1]).captions == ("a dog, number 1",)


def test_one_sample_counts_once_and_dropped_samples_not_at_all():
    twice = [sample(0, "a b", "A B!"), sample(1, "a b"), sample(2, "a b")]
    assert judged(RepeatedCaptions(3), twice) == {}
    assert judged(RepeatedCaptions(2), twice, rows=[1, 2]) == {}
    with pytest.raises(DataError):
        RepeatedCaptions(0)
