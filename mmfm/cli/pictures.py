"""Pictures in (paths and folders of a call) and out (files that say how they were made)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from mmfm.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

# The word of the IPTC for a picture made by a trained model, in the XMP that picture tools read.
SOURCE_TYPE = "trainedAlgorithmicMedia"
XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source_type}">
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{description}</rdf:li></rdf:Alt>
</dc:description>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def expand(paths: Iterable[str]) -> list[str]:
    """Every picture that `paths` name, folders replaced by what is in them, in order, once each.

    Raises ImageError for a path that does not exist, DataError for a folder without pictures.
    """
    from mmfm.preprocess.folder import list_images

    found: dict[str, None] = {}
    for path in paths:
        if not Path(path).exists():
            raise ImageError(f"there is no picture or folder '{path}'; check the name")
        files = list_images(path) if Path(path).is_dir() else [path]
        found.update((str(file), None) for file in files)
    return list(found)


def save_generated(
    image: Image.Image, path: Path, facts: Mapping[str, Any],
    frames: Sequence[Image.Image] = (), pause: int = 0,
) -> None:  # fmt: skip
    """Write a generated picture with `facts` about its making, and the mark that it is generated.

    PNG carries each fact as a text chunk of its own; every format but GIF all of them in XMP, GIF
    as a comment. frames: of an animation that runs for ever, each shown for `pause` milliseconds.
    """
    from PIL.PngImagePlugin import PngInfo

    facts = {**facts, "DigitalSourceType": SOURCE_TYPE}
    told = json.dumps(facts, ensure_ascii=False)
    xmp = XMP.format(source_type=SOURCE_TYPE, description=escape(told))
    moving: dict[str, Any] = {}
    if frames:
        image, *rest = frames
        moving = {"save_all": True, "append_images": rest, "duration": pause, "loop": 0}
    suffix = path.suffix.lower()
    if suffix == ".png":
        chunks = PngInfo()
        for key, value in facts.items():
            chunks.add_itxt(key, str(value))
        chunks.add_itxt("XML:com.adobe.xmp", xmp)
        image.save(path, pnginfo=chunks, **moving)
    elif suffix == ".gif":
        image.save(path, comment=told.encode(), **moving)
    else:
        image.save(path, quality=95, xmp=xmp.encode(), **moving)
