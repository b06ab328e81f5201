"""Sentences that a class name is put into, and sets of them by name.

`imagenet` and `simple` are the 80 templates, and the 7 chosen from them, of OpenAI's CLIP
(github.com/openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb; Copyright (c) 2021 OpenAI,
MIT License), as open_clip 3.3 distributes them; the tests compare the two lists.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmfm.errors import TextError

LABEL = ("{}",)
PHOTO = ("a photo of a {}.",)
DRAWING = (
    "{}",
    "a drawing of {}",
    "a drawing of a {}",
    "an icon of {}",
    "an emoji of {}",
    "a clip art of {}",
)
SIMPLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
IMAGENET = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    "label": LABEL,
    "photo": PHOTO,
    "drawing": DRAWING,
    "simple": SIMPLE,
    "imagenet": IMAGENET,
}


def read_templates(templates: str | os.PathLike[str] | Sequence[str] | None) -> tuple[str, ...]:
    """Templates from the name of a set, a text file with one a line, one template, or a list of
    them; None: the label alone.

    Raises TextError when there are none, one lacks the {} where the name goes, or the name is
    neither a set nor a file.
    """
    if templates is None:
        return LABEL
    if isinstance(templates, str) and "{}" in templates:
        found: tuple[str, ...] = (templates,)
    elif isinstance(templates, (str, os.PathLike)):
        found = TEMPLATES.get(os.fspath(templates)) or _of_file(Path(templates))
    else:
        found = tuple(templates)
    if not found:
        raise TextError("got no templates; give at least one, such as 'a photo of a {}'")
    for template in found:
        if not isinstance(template, str) or "{}" not in template:
            raise TextError(f"the template {template!r} must hold {{}} where the label goes")
    return found


def fill(template: str, name: str) -> str:
    """The template with the name in the place of {}."""
    return template.replace("{}", name)


def _of_file(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise TextError(
            f"templates '{path}' are neither one of {', '.join(TEMPLATES)} nor a text file with a "
            f"template a line ({getattr(error, 'strerror', None) or error})"
        ) from error
    return tuple(line.strip() for line in lines if line.strip())
