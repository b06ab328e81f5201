"""The laws of vectors: of unit length, finite, and of one input alone.

Whatever stands beside it in a batch, in whatever order and size of batch, and in whatever form a
picture comes (path, bytes, file, Pillow, array): a vector is the same, up to rounding. It holds of
a random model and of the one that ships, in float32 and in 8-bit integers.
"""

import io
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import mmfm
from mmfm.encoders.precision import why_not

PRECISIONS = ("fp32", "int8")
# Most that two vectors of one input may lie apart. In integers a sum that is rounded the other way
# moves an activation by a whole level, far below what the precision itself costs (0.04).
APART = {"fp32": 1e-5, "int8": 3e-3}
EXAMPLES = settings(
    max_examples=15, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.fixture(scope="module", params=["tiny", "mini"])
def model(request, tiny_model):
    return tiny_model if request.param == "tiny" else mmfm.load("mini", device="cpu")


@pytest.fixture(params=PRECISIONS)
def precision(request, model):
    if reason := why_not(model.backbone, request.param):
        pytest.skip(reason)
    with warnings.catch_warnings():  # a tiny random model may miss the gate of its quality
        warnings.simplefilter("ignore", UserWarning)
        yield request.param


def close(a, b, precision):
    apart = np.linalg.norm(np.asarray(a) - np.asarray(b), axis=-1).max()
    assert apart <= APART[precision]


def is_unit(vectors):
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=0, atol=1e-5)


@st.composite
def pictures(draw):
    """Of any shape: blank, noise, or a drawing of a few flat areas."""
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    colour = np.array(draw(st.tuples(*[st.integers(0, 255)] * 3)), np.uint8)
    array = np.broadcast_to(colour, (height, width, 3)).copy()
    kind = draw(st.sampled_from(["blank", "noise", "areas"]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "noise":
        array = random.integers(0, 256, array.shape, dtype=np.uint8)
    elif kind == "areas":
        array[: height // 2, : width // 3] = 255 - colour
    return array


texts = st.text(max_size=60) | st.sampled_from(
    [
        "",
        " ",
        "\n\t",
        "a red tree",
        "tree",
        "a b c d e f g h i",
        "!!!",
        "\u200d",
        "🌳",
        "ß",
        "İ",
        "0",
    ]
)


# Pictures


@EXAMPLES
@given(some=st.lists(pictures(), min_size=1, max_size=5), size=st.integers(1, 6))
def test_a_pictures_vector_is_its_own(model, precision, some, size):
    together = model.embed_images(some, precision=precision)
    is_unit(together)
    alone = [model.embed_images(one, precision=precision)[0] for one in some]
    close(together, alone, precision)
    turned = model.embed_images(some[::-1], precision=precision, batch_size=size)
    close(turned[::-1], alone, precision)


@EXAMPLES
@given(array=pictures(), kind=st.sampled_from(["PNG", "BMP", "TIFF", "WEBP"]))
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_a_lossless_picture_is_the_same_in_any_form(model, tmp_path, array, kind, decode):
    image, path = Image.fromarray(array), tmp_path / "picture"
    stream = io.BytesIO()
    image.save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    path.write_bytes(stream.getvalue())
    data = stream.getvalue()
    forms = [path, str(path), data, bytearray(data), io.BytesIO(data), Image.open(path), image]
    forms += [array, array / 255, np.asfortranarray(array), image.convert("RGBA")]
    vectors = model.embed_images(forms, decode=decode, precision="fp32")
    close(vectors, vectors[:1].repeat(len(forms), axis=0), "fp32")


def test_a_jpeg_is_the_same_in_any_form_when_decoded_exactly(model, tmp_path, ellipses):
    path = tmp_path / "picture.jpg"
    ellipses[0].resize((900, 700)).save(path)
    forms = [path, path.read_bytes(), Image.open(path), np.asarray(Image.open(path))]
    vectors = model.embed_images(forms, precision="fp32")
    close(vectors, vectors[:1].repeat(4, axis=0), "fp32")
    fast = model.embed_images(path, decode="fast", precision="fp32")
    assert (fast @ vectors[0])[0] > 0.995


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (128, 128, 128)])
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (1, 4000), (4000, 1), (3, 700)])
def test_a_blank_picture_has_a_vector(model, precision, size, colour):
    for decode in ("exact", "fast"):
        image = Image.new("RGB", size, colour)
        is_unit(model.embed_images(image, precision=precision, decode=decode))


def test_a_clear_picture_is_a_white_one(model):
    clear = Image.new("RGBA", (40, 30), (200, 30, 30, 0))
    vectors = model.embed_images([clear, Image.new("RGB", (40, 30), "white")], precision="fp32")
    close(vectors[0], vectors[1], "fp32")


# Texts


@EXAMPLES
@given(some=st.lists(texts, min_size=1, max_size=8), size=st.integers(1, 9))
def test_a_texts_vector_is_its_own(model, precision, some, size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        together = model.embed_texts(some, precision=precision)
        is_unit(together)
        alone = [model.embed_texts(one, precision=precision)[0] for one in some]
        close(together, alone, precision)
        turned = model.embed_texts(some[::-1], precision=precision, batch_size=size)
        close(turned[::-1], alone, precision)


def test_an_empty_text_has_a_vector(model, precision):
    vectors = model.embed_texts(["", "tree", " "], precision=precision)
    is_unit(vectors)
    close(vectors[0], vectors[2], precision)
    assert abs(vectors[0] - vectors[1]).max() > 1e-3


def test_a_long_text_is_its_beginning_and_the_rest_is_told(model, precision):
    long = "a green tree with a red apple " * 40
    with pytest.warns(UserWarning, match="cut off"):
        vectors = model.embed_texts([long, long + "and a cat", "a cat"], precision=precision)
    is_unit(vectors)
    close(vectors[0], vectors[1], precision)
    with pytest.raises(mmfm.errors.TextError, match="Too long"):
        model.embed_texts(["a cat", long], precision=precision, truncate="error")


def test_long_and_short_texts_do_not_touch_each_other(model, precision):
    some = ["a", "a b c d e f g h i j k l", "tree", "one two three four five", "b"]
    together = model.embed_texts(some, precision=precision)
    for text, vector in zip(some, together):
        close(model.embed_texts(text, precision=precision)[0], vector, precision)
