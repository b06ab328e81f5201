"""The page: everything escaped, nothing fetched."""

from PIL import Image

from mmfm.cli.page import Card, Row, Section, render

NASTY = "<script>alert('x')</script> \"&\""


def test_every_word_is_escaped_and_nothing_is_fetched():
    card = Card(Image.new("RGB", (4, 4), "red"), NASTY, NASTY)
    page = render(NASTY, NASTY, [Section(NASTY, NASTY, [Row(NASTY, [card])])], NASTY)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 10  # title twice, intro, section twice, row, card three…
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 1
