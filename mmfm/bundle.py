"""A model on disk: one folder of JSON and safetensors, half of it open_clip's own.

    open_clip_config.json  open_clip_model.safetensors   the backbone, `local-dir:` for open_clip
    config.json            heads.safetensors             the heads, their shapes, the flow's space
    vocabulary.json                                      the caption head's tokens (CLIP BPE ids)
    guesses.json                                         how captions mostly go on: for speed alone
    metrics.json                                         what was measured, on what, with what
    compute.json                                         parameters, operations, energy
    ATTRIBUTION.md                                       whose pictures it learned from
    README.md                                            the model card, made of all of these
    manifest.json                                        sizes and SHA-256 of the files
    modules.json                                         tells sentence-transformers how to load it
    vae/                                                 of a decoder in vae space: its autoencoder,
                                                         in diffusers' own format

Nothing is unpickled; unknown settings, missing files and wrong shapes are refused in one sentence.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfm import card
from mmfm.config import ModelConfig, from_dict, to_dict
from mmfm.durable import replacing
from mmfm.errors import ModelError, OutputError
from mmfm.papers import ATTRIBUTION, COMPUTE, CONFIG, MANIFEST, METRICS, README, Papers, manifest_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

FORMAT = 1
WEIGHTS = Path(__file__).parent / "weights"  # of the models that ship
HEADS, VOCABULARY, GUESSES = "heads.safetensors", "vocabulary.json", "guesses.json"
VAE = "vae"  # the folder of an autoencoder
MODULES = "modules.json"  # sentence-transformers' list of what to load
TOWERS = {"idx": 0, "name": "0", "path": "", "type": "mmfm.sentence_transformer.Towers"}


@dataclass(frozen=True)
class Bundle:
    """The contents of a folder, backbone weights aside (the backbone reads its own)."""

    folder: Path
    config: ModelConfig
    heads: dict[str, Tensor]
    vocabulary: list[int] | None
    guesses: list[list[int]] | None
    metrics: dict[str, Any]
    compute: dict[str, Any]
    attribution: str

    def fill(self, name: str, head: Module) -> None:
        """Give the head called `name` its weights. Raises ModelError when they do not fit."""
        prefix = f"{name}."
        state = {k.removeprefix(prefix): v for k, v in self.heads.items() if k.startswith(prefix)}
        try:
            head.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"the weights of {name} in {self.folder} do not fit its {CONFIG} "
                f"({str(error).splitlines()[-1].strip()}); copy the bundle again"
            ) from error


def find(name: str | Path) -> Path | None:
    """The folder of the bundle called so: itself a folder, or a model that ships; else None."""
    return next((at for at in (Path(name), WEIGHTS / str(name)) if is_bundle(at)), None)


def is_bundle(folder: Path) -> bool:
    """Whether the folder says of itself that it is an mmfm bundle."""
    return (folder / CONFIG).is_file()


def read(folder: Path) -> Bundle:
    """Read everything but the backbone's weights. Raises ModelError naming what is wrong."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        values = json.loads((folder / CONFIG).read_text())
        if values.pop("format", None) != FORMAT:
            raise ModelError(f"{folder} is not a bundle of format {FORMAT}: update mmfm")
        config = from_dict(ModelConfig, values)
        heads = load_file(folder / HEADS) if (folder / HEADS).is_file() else {}
        vocabulary, guesses = _json(folder / VOCABULARY), _json(folder / GUESSES)
        metrics, compute = (_json(folder / name) or {} for name in (METRICS, COMPUTE))
        told = folder / ATTRIBUTION
        attribution = told.read_text(encoding="utf-8") if told.is_file() else ""
    except ModelError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelError(
            f"{folder} cannot be read as an mmfm bundle ({error}); copy or download it again"
        ) from error
    if config.captioner is not None:
        found = None if vocabulary is None else len(vocabulary) + 2  # start and end
        if found != config.captioner.vocab_size:
            raise ModelError(
                f"{folder / VOCABULARY} has {found or 'no'} tokens, its {CONFIG} says "
                f"{config.captioner.vocab_size}; copy the bundle again"
            )
        _expect_guesses(folder, guesses, config.captioner.vocab_size)
    return Bundle(folder, config, heads, vocabulary, guesses, metrics, compute, attribution)


def write(
    folder: Path, config: ModelConfig, heads: dict[str, Tensor], vocabulary: list[int] | None,
    guesses: list[list[int]] | None, metrics: dict[str, Any], compute: dict[str, Any],
    attribution: str, save_parts,
) -> None:  # fmt: skip
    """Write a bundle: whole, under a temporary name, then renamed; an older one is replaced.

    Card and manifest are made of what is written. save_parts(folder) writes what saves itself: the
    backbone's two files, an autoencoder. Raises OutputError when the folder cannot be written or
    holds something that is not a bundle.
    """
    from safetensors.torch import save_file

    if folder.exists() and not (
        folder.is_dir() and (is_bundle(folder) or not any(folder.iterdir()))
    ):
        raise OutputError(f"{folder} exists and is not an mmfm bundle; choose another folder")
    temporary = folder.with_name(f".{folder.name}.unfinished-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        save_parts(temporary)
        if heads:
            save_file(heads, temporary / HEADS)
        if vocabulary is not None:
            (temporary / VOCABULARY).write_text(json.dumps(vocabulary) + "\n")
        if guesses is not None:
            (temporary / GUESSES).write_text(json.dumps(guesses) + "\n")
        for name, facts in ((METRICS, metrics), (COMPUTE, compute)):
            if facts:
                (temporary / name).write_text(json.dumps(facts, indent=2) + "\n")
        if attribution:
            (temporary / ATTRIBUTION).write_text(attribution, encoding="utf-8")
        (temporary / MODULES).write_text(json.dumps([TOWERS], indent=2) + "\n")
        values = {"format": FORMAT, **to_dict(config)}
        (temporary / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
        seal(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; choose another") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def seal(folder: Path) -> None:
    """Make card and manifest of a bundle anew, after its other files have changed.

    Raises ModelError for papers that cannot be read.
    """
    papers = Papers.read(folder)
    for name, text in ((README, card.markdown(papers)), (MANIFEST, manifest_of(papers.files))):
        with replacing(folder / name) as file:
            file.write(text.encode())


def size(folder: Path) -> int:
    """Bytes of all files of a bundle."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _expect_guesses(folder: Path, guesses: list[list[int]] | None, vocab_size: int) -> None:
    """Raises ModelError unless these are tokens, each after one or two others."""
    try:
        right = all(
            len(row) in (2, 3) and all(-1 <= token < vocab_size for token in row)
            for row in guesses or ()
        )
    except TypeError:
        right = False
    if not right:
        raise ModelError(
            f"{folder / GUESSES} does not hold tokens of this caption head; delete the file, it "
            "only makes captions faster"
        )


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
