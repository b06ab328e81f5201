"""People in drawings: groups by words, skin by colour, and figures that add up."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmfm.data.sample import Sample
from mmfm.errors import DataError
from mmfm.evaluation import evaluate
from mmfm.evaluation.bias import SKIN, gender_of, skin_of, tone_of


def face(colour, ground="white", size=32):
    image = Image.new("RGB", (size, size), ground)
    ImageDraw.Draw(image).ellipse((4, 4, size - 4, size - 4), fill=colour)
    return image


def person(name, tone=None, number=0, colour="#ffc927"):
    file = io.BytesIO()
    face(colour).save(file, "PNG")
    full = f"{name} {tone} skin tone" if tone else name
    meta = {"key": f"made:{full}-{number}", "name": full, "concept": name, "skin_tone": tone}
    return Sample(f"{full}-{number}", file.getvalue(), (full,), meta)


PEOPLE = [
    *(person("man running", number=n) for n in range(2)),
    person("man running", "dark", colour="#6f514b"),
    person("woman running"),
    person("woman running", "light", colour="#f9dbbd"),
    person("person running", "medium", colour="#bd8d69"),
    Sample("tree", person("tree").image, ("tree",), {"name": "tree", "concept": "tree"}),
]


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("man running", "man"), ("two Women", "woman"), ("person: bald", "person"),
        ("woman and man", "other"), ("a tree", "other"), ("", "other"), ("human", "other"),
    ],
)  # fmt: skip
def test_the_words_decide_the_group(text, group):
    assert gender_of(text) == group


def test_tones_are_those_of_the_data():
    assert [tone_of(s) for s in PEOPLE[1:4]] == ["default", "dark", "default"]
    assert tone_of(person("kiss", "dark and light")) == "mixed"


@pytest.mark.parametrize("group", SKIN)
def test_skin_is_told_by_its_colour(group):
    seen = [skin_of(face(f"#{colour}")) for colour in SKIN[group]]
    assert seen.count(group) >= 0.6 * len(seen)  # the lightest and the darkest are no colour
    assert skin_of(face("#2864dc")) == "no skin"
    assert skin_of(Image.new("RGBA", (8, 8))) == "no skin"


def test_figures_of_groups_are_shares_of_their_counts(tiny_model):
    found = evaluate(tiny_model, PEOPLE, parts=["bias"])["bias"]
    words, tones = found["by_gender_word"], found["by_skin_tone"]
    assert [words[g]["drawings"] for g in ("man", "woman", "person")] == [3, 2, 1]
    assert [tones[t]["drawings"] for t in ("default", "light", "medium", "dark")] == [3, 1, 1, 1]
    for group in ("man", "woman", "person"):
        said = [v for k, v in words[group].items() if k.startswith("caption_says")]
        assert sum(said) == pytest.approx(1)
    assert found["untoned_names"]["names"] == 2
    assert found["untoned_names"]["first_is_untoned_by_chance"] == pytest.approx((2 / 3 + 0.5) / 2)
    for title, shares in found["drawn"].items():
        if title != "about":
            assert sum(v for k, v in shares.items() if k != "pictures") == pytest.approx(1)


def test_a_perfect_search_finds_every_group(tiny_model):
    """Vectors of the names themselves, so that each name's own drawings come first."""
    from mmfm.evaluation.bias import Bias

    part = Bias(tiny_model)
    part(PEOPLE)
    vectors = tiny_model.embed_texts(part.names, precision="fp32")
    found = part.figures(np.asarray(vectors))
    assert all(found["by_gender_word"][g]["recall@1"] == 1 for g in ("man", "woman", "person"))


def test_without_people_there_is_nothing_to_say(tiny_model):
    with pytest.raises(DataError, match="people"):
        evaluate(tiny_model, [PEOPLE[-1]], parts=["bias"])
