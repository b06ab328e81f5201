"""The one record type that crosses from data sets to training and evaluation."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One picture with what is said about it.

    key: name of the sample inside its shard, without dots or slashes.
    image: the encoded picture file (PNG, JPEG or WebP bytes), not decoded.
    captions: what is said of it, the plainest first; may be empty in data of other makers.
    meta: whatever else is known, as the shard's JSON holds it.
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    meta: dict = field(default_factory=dict)
