"""The one record type that crosses from data sets to training and evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from mmfm.data.bad import SampleError

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
EXTENSIONS = (*IMAGE_EXTENSIONS, "txt", "json", "cls")  # all that is ever read from a shard


@dataclass(frozen=True)
class Sample:
    """One picture with what is said about it.

    key: name of the sample inside its shard, without dots or slashes.
    image: the encoded picture file (PNG, JPEG, WebP, GIF, BMP or TIFF bytes), not decoded.
    captions: what is said of it, the plainest first; may be empty in data of other makers.
    meta: whatever else is known, as the shard's JSON holds it.
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    meta: dict = field(default_factory=dict)

    @classmethod
    def from_members(cls, key: str, parts: dict[str, bytes], shard: str = "") -> Sample:
        """The sample that members of a shard, by extension, make.

        Captions are the list `captions` of the JSON (what `write_shards` writes), or else the
        text, or else the JSON's `caption` (img2dataset); none of them gives (). A `.cls` (the
        number of a class, in sets for classification) becomes meta["cls"], as text. Raises
        SampleError "bad-text" when the texts cannot be read.
        """
        image = next(parts[kind] for kind in IMAGE_EXTENSIONS if kind in parts)
        try:
            meta = json.loads(parts["json"]) if "json" in parts else {}
            text = parts["txt"].decode().strip() if "txt" in parts else ""
            captions = _captions(meta, text)
            if "cls" in parts:
                meta.setdefault("cls", parts["cls"].decode().strip())
        except (ValueError, RecursionError) as error:
            text = f"{shard}: the text of sample {key!r} cannot be read: {error}"
            raise SampleError(text, shard, key, "bad-text") from None
        return cls(key=key, image=image, captions=captions, meta=meta)


def _captions(meta: object, text: str) -> tuple[str, ...]:
    if not isinstance(meta, dict):
        raise ValueError("its .json is not an object")
    captions = meta.get("captions")
    if captions is None:
        caption = text or meta.get("caption")
        captions = [caption.strip()] if isinstance(caption, str) and caption.strip() else []
    if not isinstance(captions, list) or not all(isinstance(line, str) for line in captions):
        raise ValueError("its `captions` are not a list of texts")
    return tuple(captions)
