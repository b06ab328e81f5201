"""The page: everything escaped, nothing fetched."""

from PIL import Image

from mmfm.page import Card, Row, Section, document, footer

NASTY = "<script>alert('x')</script> \"&\""


def test_every_word_is_escaped_and_nothing_is_fetched():
    card = Card(Image.new("RGB", (4, 4), "red"), NASTY, (NASTY, NASTY))
    section = Section(NASTY, NASTY, [Row(NASTY, [card], wide=True)])
    page = document(NASTY, NASTY, section.html() + footer(NASTY))
    assert "<script" not in page
    # title twice, intro, section twice, row, card: alt, words, two notes; footer
    assert page.count("&lt;script&gt;") == 11
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 1
