"""Sets of sentences: what they are called, where they come from, and how a user's own are read."""

import pytest

from mmfm.classify.templates import TEMPLATES, fill, read_templates
from mmfm.errors import TextError


def test_openai_sets_are_those_that_open_clip_distributes():
    import open_clip

    for name, theirs in (
        ("imagenet", open_clip.OPENAI_IMAGENET_TEMPLATES),
        ("simple", open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ):
        assert [fill(t, "cat") for t in read_templates(name)] == [t("cat") for t in theirs]


def test_every_set_holds_places_for_the_name_and_no_sentence_twice():
    for name, templates in TEMPLATES.items():
        assert len(set(templates)) == len(templates)
        assert read_templates(name) == templates
        assert all(fill(t, "<name>").count("<name>") == t.count("{}") >= 1 for t in templates)


def test_a_file_a_sentence_and_a_list_are_read_alike(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a sketch of {}\n\n  a stamp of {} \n", encoding="utf-8")
    wanted = ("a sketch of {}", "a stamp of {}")
    assert (
        read_templates(path) == read_templates(str(path)) == read_templates(list(wanted)) == wanted
    )
    assert read_templates("a sketch of {}") == wanted[:1]
    assert read_templates(None) == ("{}",)


def test_braces_in_a_name_are_left_alone():
    assert fill("a photo of {}", "{0} and {}") == "a photo of {0} and {}"


@pytest.mark.parametrize("wrong", [[], ["a drawing"], ["{}", 3], "no-such-set"])
def test_wrong_templates_are_refused(wrong):
    with pytest.raises(TextError):
        read_templates(wrong)


def test_a_file_without_a_sentence_is_refused(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(TextError, match="at least one"):
        read_templates(empty)
