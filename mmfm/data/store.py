"""The embedding store: what frozen towers said of pictures and captions, kept by content.

    STORE/images-TOWER-PREPROCESS/pooled/*.safetensors   (N, D) float16, unit length
                                  grid/*.safetensors     (N, tokens, E) float16
    STORE/texts-TOWER/text/*.safetensors                 (N, D) float16, unit length
    STORE/.../space.json                                 the full hashes and the model's name
    STORE/shards/*.safetensors                           which contents each shard holds, in order

Rows are found by the sha256 of the encoded picture or of the normalised text. Another tower or
another preprocessing has another folder, so that old and new vectors never mix; equal pictures
are kept once, whatever shard they came in. float16 rounds each number of a vector by at most one
part in 2,048; the cosine between a vector and its stored form stays above 0.9999998.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmfm.data.keyed import (
    KEY_BYTES,
    SUFFIX,
    KeyedRows,
    as_keys,
    content_key,
    file_stem,
    hex_keys,
    read_arrays,
    write_arrays,
)
from mmfm.durable import replacing
from mmfm.errors import DataError, OutputError

KINDS = ("pooled", "grid", "text")
_NAMES = {"pooled": "pictures", "grid": "grids of pictures", "text": "texts"}
_OPTIONS = {"pooled": "", "grid": " --grids", "text": " --texts"}
_SHORT = 12  # hex digits of a hash in a folder's name


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What decides an embedding besides its content: hashes of towers and preprocessing."""

    image: str
    preprocess: str
    text: str

    def space(self, kind: str) -> tuple[str, dict[str, str]]:
        """(name of the folder, the hashes it stands for) of a kind."""
        if kind == "text":
            return f"texts-{self.text[:_SHORT]}", {"text": self.text}
        name = f"images-{self.image[:_SHORT]}-{self.preprocess[:_SHORT]}"
        return name, {"image": self.image, "preprocess": self.preprocess}


@dataclass(frozen=True)
class Size:
    """rows of a kind, and the bytes of its files."""

    rows: int
    bytes: int

    @property
    def bytes_per_row(self) -> float:
        return self.bytes / max(1, self.rows)


@dataclass(frozen=True)
class ShardKeys:
    """The contents of one shard, row by row.

    images: (N, 32) uint8, zeros where a picture could not be used. captions: (M, 32), those of all
    rows one after the other, and counts (N,) int32, how many each row has; None if never asked.
    """

    images: np.ndarray
    captions: np.ndarray | None = None
    counts: np.ndarray | None = None


def normalise(text: str) -> str:
    """The form in which captions are kept: Unicode NFC, single spaces. CLIP reads them alike."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def text_key(text: str) -> str:
    """Hex sha256 of the normalised text."""
    return content_key(normalise(text).encode())


class EmbeddingStore:
    """Embeddings of one model in a folder that may hold those of several.

    identity: of the model; `mmfm.jobs.embed.open_store(folder, model)` knows it. Without one, the
    folder must hold the embeddings of one model only (DataError otherwise).
    """

    def __init__(
        self, folder: str | os.PathLike[str], identity: Identity | None = None, model: str = ""
    ) -> None:
        self.folder = Path(folder)
        self.model = model
        self.identity = self._only_identity() if identity is None else identity
        self._rows: dict[str, KeyedRows] = {}

    def __reduce__(self):
        return EmbeddingStore, (self.folder, self.identity, self.model)

    # ------------------------------------------------------------------ reading

    def pooled(self, keys: Sequence[str] | np.ndarray) -> np.ndarray:
        """(N, D) float32, unit length. keys: hex sha256 of encoded pictures, or (N, 32) uint8.

        Raises DataError as `expect` does.
        """
        return _unit(self._get("pooled", keys))

    def grids(self, keys: Sequence[str] | np.ndarray) -> np.ndarray:
        """(N, tokens, E) float16, the image tower's own tokens. Raises as `pooled` does."""
        return self._get("grid", keys)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float32, unit length, of captions (not keys). Raises as `pooled` does."""
        return _unit(self._get("text", [text_key(text) for text in texts]))

    def has(self, keys: Sequence[str] | np.ndarray, kind: str = "pooled") -> np.ndarray:
        """(N,) bool: which contents have an embedding of this kind."""
        return self.rows(kind).has(keys)

    def found(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Pooled vectors (D,) of those pictures that are in the store, by key."""
        there = [key for key, has in zip(keys, self.has(keys)) if has]
        return dict(zip(there, self.pooled(there))) if there else {}

    def rows(self, kind: str) -> KeyedRows:
        """The files of one kind ("pooled", "grid", "text") of this model."""
        if kind not in self._rows:
            if kind not in KINDS:
                raise DataError(f"The store has no kind {kind!r}; wanted {', '.join(KINDS)}.")
            name, hashes = self.identity.space(kind)
            _expect_same(self.folder / name, hashes)
            self._rows[kind] = KeyedRows(self.folder / name / kind)
        return self._rows[kind]

    def refresh(self) -> None:
        """See what other processes have added since."""
        for rows in self._rows.values():
            rows.refresh()

    def size(self, kind: str) -> Size:
        """How much there is of a kind."""
        rows = self.rows(kind)
        return Size(len(rows), sum(path.stat().st_size for path in rows.files))

    def expect(self, keys: Sequence[str] | np.ndarray, kind: str) -> None:
        """Raises DataError when a key is missing, saying how many and which command adds them."""
        keys = as_keys(keys)
        missing = len(keys) - int(self.has(keys, kind).sum())
        if missing:
            raise DataError(
                f"{missing} of {len(keys)} {_NAMES[kind]} are not in {self.folder} for the model "
                f"{self.model or self.identity.image[:_SHORT]}; add them with `mmfm data embed "
                f"SHARDS -o {self.folder} --model MODEL{_OPTIONS[kind]}`."
            )

    def _get(self, kind: str, keys: Sequence[str] | np.ndarray) -> np.ndarray:
        if not len(keys):
            raise DataError(f"Asked {self.folder} for no {_NAMES[kind]}; give at least one key.")
        try:
            return self.rows(kind).get(keys)
        except KeyError:
            self.expect(keys, kind)
            raise

    # ------------------------------------------------------------------ writing

    def claim(self, kinds: Sequence[str], check: bool = False) -> dict[Path, str]:
        """Make the folders of these kinds and write down whose they are.

        Damaged files are removed, so that what they held is embedded again; returns each with its
        reason. check: every byte is compared with its hash, instead of lengths and keys alone.
        Raises OutputError when the store cannot be written.
        """
        found: dict[Path, str] = {}
        for kind in kinds:
            rows = self.rows(kind)
            found.update(rows.check() if check else rows.damaged)
            try:
                rows.folder.mkdir(parents=True, exist_ok=True)
                rows.clear()
                self._sign(kind)
            except OSError as error:
                raise OutputError(
                    f"Cannot write a store at {self.folder}: {error.strerror}; choose another."
                ) from error
        return found

    def _sign(self, kind: str) -> None:
        name, hashes = self.identity.space(kind)
        note = self.folder / name / "space.json"
        if not note.exists():
            with replacing(note) as file:
                file.write(json.dumps({**hashes, "model": self.model}, indent=1).encode() + b"\n")

    def shard_keys(self, shard: str, fingerprint: str) -> ShardKeys | None:
        """What a shard was seen to hold; None when it is new, changed, or its note is damaged."""
        path = self._note(shard, fingerprint)
        if not path.is_file():
            return None
        try:
            arrays = read_arrays(path)[1]
            return ShardKeys(arrays["images"], arrays.get("captions"), arrays.get("counts"))
        except (DataError, KeyError):  # a note is only a memory: the shard is read again
            return None

    def remember(self, shard: str, fingerprint: str, keys: ShardKeys) -> None:
        """Write down what a shard holds."""
        arrays = {name: value for name, value in vars(keys).items() if value is not None}
        write_arrays(self._note(shard, fingerprint), arrays, {"shard": shard})

    def _note(self, shard: str, fingerprint: str) -> Path:
        digest = hashlib.sha256(f"{shard}\n{fingerprint}".encode()).hexdigest()[:16]
        return self.folder / "shards" / f"{file_stem(shard)}-{digest}{SUFFIX}"

    # ------------------------------------------------------------------ other models' folders

    def stale(self) -> list[Path]:
        """Folders of embeddings by other towers or preprocessing."""
        own = {self.identity.space(kind)[0] for kind in KINDS}
        return sorted(path for path in _spaces(self.folder) if path.name not in own)

    def prune(self) -> list[Path]:
        """Delete the stale folders and return them."""
        gone = self.stale()
        for path in gone:
            shutil.rmtree(path)
        return gone

    def _only_identity(self) -> Identity:
        images: list[dict[str, str]] = []
        texts: list[dict[str, str]] = []
        for path in _spaces(self.folder):
            hashes = _hashes(path)
            (texts if "text" in hashes else images).append(hashes)
        expect_store(self.folder)
        if len(images) != 1 or len(texts) > 1:
            raise DataError(
                f"{self.folder} holds image embeddings of {len(images)} models and text embeddings "
                f"of {len(texts)}, wanted one; say whose are meant, with the model."
            )
        text = texts[0]["text"] if texts else ""
        self.model = self.model or images[0].get("model", "")
        return Identity(image=images[0]["image"], preprocess=images[0]["preprocess"], text=text)

    def describe(self) -> dict:
        """Whose embeddings, and how much of each kind, as plain JSON types."""
        kept = {}
        for kind in KINDS:
            size = self.size(kind)
            kept[kind] = {**asdict(size), "bytes_per_row": round(size.bytes_per_row, 1)}
        return {"identity": asdict(self.identity), "kept": kept}


def expect_store(folder: str | os.PathLike[str]) -> None:
    """Raises DataError when `folder` is no embedding store."""
    if not _spaces(Path(folder)):
        raise DataError(
            f"{folder} is no embedding store; make one with `mmfm data embed SHARDS -o {folder}`."
        )


def no_keys(count: int) -> np.ndarray:
    """(count, 32) uint8 zeros: contents not known yet."""
    return np.zeros((count, KEY_BYTES), np.uint8)


def _spaces(folder: Path) -> list[Path]:
    return [note.parent for note in sorted(folder.glob("*/space.json"))]


def _hashes(space: Path) -> dict[str, str]:
    try:
        return json.loads((space / "space.json").read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{space / 'space.json'} cannot be read ({error}); delete it.") from error


def _expect_same(space: Path, hashes: dict[str, str]) -> None:
    if (space / "space.json").is_file():
        there = _hashes(space)
        if any(there.get(name) != value for name, value in hashes.items()):
            raise DataError(
                f"{space} was made by other towers whose hash begins alike; use another store."
            )


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


__all__ = [
    "KINDS", "EmbeddingStore", "Identity", "ShardKeys", "Size", "content_key", "expect_store",
    "hex_keys", "no_keys", "normalise", "text_key",
]  # fmt: skip
