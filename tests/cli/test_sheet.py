"""Contact sheets: the right size, every picture where it belongs."""

from PIL import Image

from mmfm.cli.sheet import GAP, contact_sheet


def test_each_picture_is_in_its_cell():
    colours = [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    images = [Image.new("RGB", (16, 16), colour) for colour in colours]
    sheet = contact_sheet(images, columns=2, cell=32)
    assert sheet.size == (GAP + 2 * (32 + GAP), GAP + 2 * (32 + GAP))
    places = [(0, 0), (1, 0), (0, 1)]
    for colour, (column, row) in zip(colours, places, strict=True):
        middle = (GAP + column * (32 + GAP) + 16, GAP + row * (32 + GAP) + 16)
        assert sheet.getpixel(middle) == colour


def test_labels_make_room_and_leave_ink():
    image = Image.new("RGB", (16, 16), "white")
    bare = contact_sheet([image], cell=64)
    labelled = contact_sheet([image], ["a rather long label that wraps"], cell=64)
    assert labelled.height > bare.height
    assert labelled.getextrema() != bare.getextrema()


def test_transparency_is_white_and_shape_is_kept():
    clear = Image.new("RGBA", (20, 10), (255, 0, 0, 0))
    assert contact_sheet([clear], cell=40).getcolors() == [(56 * 56, (255, 255, 255))]
    wide = contact_sheet([Image.new("RGB", (20, 10), "red")], cell=40)
    red = [count for count, colour in wide.getcolors() if colour == (255, 0, 0)]
    assert red == [40 * 20]
