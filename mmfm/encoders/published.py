"""From a name to a backbone: what open_clip publishes, what the hub has, what lies on disk.

ARCH/TAG          one of open_clip's published checkpoints; the hub is asked for it
ARCH/FILE         an architecture of open_clip with the weights of a file
ARCH/random       an architecture with random weights: for its speed, never for its vectors
hf-hub:ORG/NAME   a repository of the hub with open_clip_config.json
local-dir:PATH    a folder with the same files
"""

from __future__ import annotations

import difflib
import json
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmfm.config import BackboneConfig
from mmfm.encoders import architectures, hub, weights
from mmfm.encoders.architectures import CONFIG_FILE, PICKLED_FILE, WEIGHTS_FILE
from mmfm.encoders.backbone import Backbone
from mmfm.errors import ModelError

RANDOM = "random"
# in the order in which open_clip takes them
_FOLDER_FILES = (
    WEIGHTS_FILE, "open_clip_pytorch_model.safetensors", PICKLED_FILE,
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth",
    "model.pth",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """What a name stands for; weights None: random ones were asked for."""

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    weights: Path | None
    folder: Path | None = None  # that may hold the files of a tokenizer
    resizes: bool = False  # positions for pictures of another size are resampled, as open_clip does


def from_open_clip(
    name: str, *, checkpoint: str | Path | None = None, allow_pickle: bool = False
) -> Backbone:
    """The backbone of a name as above; `checkpoint`: with the weights of that file instead.

    `ARCH` alone is enough with a checkpoint; `ARCH/TAG` with one says that pictures are prepared as
    for TAG. allow_pickle: read .pt and .bin files too, their tensors only. Raises ModelError when
    the name is unknown, its files cannot be had, or the weights are damaged or another model's.
    """
    source = _source(name, None if checkpoint is None else Path(checkpoint), allow_pickle)
    adapt = partial(architectures.adapted, resizes=source.resizes)
    if source.weights is not None:
        weights.check_file(source.weights, allow_pickle)
        if source.weights.suffix == weights.SAFE:  # before memory is taken for a model
            shapes, _ = _built(name, source, "meta")
            weights.fits(shapes, source.weights, adapt)
    towers, preprocess = _built(name, source, "cpu")
    if source.weights is not None:
        weights.fill(towers, source.weights, allow_pickle=allow_pickle, adapt=adapt)
    loss = "softmax" if towers.logit_bias is None else "sigmoid"
    config = BackboneConfig(model_cfg=source.model_cfg, preprocess_cfg=preprocess, loss=loss)
    return Backbone(config, towers, architectures.tokenizer(source.model_cfg, source.folder))


def _built(name: str, source: Source, where: str) -> tuple[Any, dict[str, Any]]:
    # the size is the image tower's own, as open_clip has it
    told = {key: value for key, value in source.preprocess_cfg.items() if key != "size"}
    try:
        return architectures.build(source.model_cfg, told, where)
    except ModelError as error:
        raise ModelError(f"{name!r} cannot be loaded: {error}") from error


def _source(name: str, checkpoint: Path | None, allow_pickle: bool) -> Source:
    scheme, _, rest = name.partition(":")
    if scheme == "local-dir":
        return _in_folder(Path(rest), checkpoint)
    if scheme == "hf-hub":
        return _on_hub(rest, checkpoint, allow_pickle)
    return _listed(*_parts(name, checkpoint), allow_pickle)


def _parts(name: str, checkpoint: Path | None) -> tuple[str, str, Path | None]:
    """ARCH/TAG or ARCH/FILE -> architecture, tag, file."""
    arch, _, tag = name.partition("/")
    if Path(tag).suffix.lower() not in (weights.SAFE, *weights.PICKLED):
        return arch, tag, checkpoint
    if checkpoint is not None:
        raise ModelError(f"{name!r} names a weights file, and checkpoint another; give one")
    return arch, "", Path(tag)


def _listed(arch: str, tag: str, checkpoint: Path | None, allow_pickle: bool) -> Source:
    """An architecture that open_clip lists, with the weights that were asked for."""
    cfg = architectures.model_cfg(arch)
    if cfg is None:
        near = difflib.get_close_matches(arch, architectures.names(), n=3, cutoff=0.5)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "see mmfm.list_models(published=True)"
        )
        raise ModelError(f"open_clip has no architecture {arch!r}; {hint}")
    if tag == RANDOM and checkpoint is None:
        warnings.warn(f"{arch}/{tag} has random weights: its vectors mean nothing", stacklevel=2)
        return Source(cfg, _usual_preprocess(arch), None)
    if not tag and checkpoint is not None:
        return Source(cfg, _usual_preprocess(arch), checkpoint)
    entry = architectures.checkpoint_entry(arch, tag)
    if not entry:
        raise ModelError(_no_tag(arch, tag))
    if checkpoint is None:
        _warn_of_another_activation(arch, tag, cfg, entry)
    found = checkpoint or _download(f"{arch}/{tag}", entry["hf_hub"], allow_pickle)
    way = architectures.preprocess_of(entry)
    return Source(cfg, way, found, resizes=checkpoint is None)


def _warn_of_another_activation(
    arch: str, tag: str, cfg: dict[str, Any], entry: dict[str, Any]
) -> None:
    quick = bool(entry.get("quick_gelu"))
    if quick != bool(cfg.get("quick_gelu")):
        right = arch.removesuffix("-quickgelu") + ("-quickgelu" if quick else "")
        warnings.warn(
            f"{arch}/{tag} was trained with another activation function than {arch} has; its "
            f"vectors are right as {right}/{tag}",
            stacklevel=2,
        )


def _no_tag(arch: str, tag: str) -> str:
    tags = [t for a, t in architectures.published() if a == arch]
    wanted = f"one of {', '.join(tags)}" if tags else "a weights file, since none is published"
    got = f"no checkpoint {arch}/{tag}" if tag else f"several ways to fill {arch}"
    return f"open_clip has {got}; wanted {arch}/TAG, for {arch} {wanted}"


def _usual_preprocess(arch: str) -> dict[str, Any]:
    """How pictures are prepared for all published weights of an architecture, else CLIP's way."""
    ways: list[dict[str, Any]] = []
    for name, tag in architectures.published():
        if name == arch:
            way = architectures.preprocess_of(architectures.checkpoint_entry(name, tag))
            ways += [] if way in ways else [way]
    if len(ways) > 1:
        warnings.warn(
            f"the published weights of {arch} prepare pictures in {len(ways)} ways; CLIP's is "
            f"taken, name another with {arch}/TAG and a checkpoint",
            stacklevel=2,
        )
    return ways[0] if len(ways) == 1 else {}


def _in_folder(folder: Path, checkpoint: Path | None) -> Source:
    if not folder.is_dir():
        raise ModelError(f"there is no folder '{folder}'; wanted one with {CONFIG_FILE}")
    source = _configured(folder / CONFIG_FILE)
    resizes = checkpoint is None
    if checkpoint is None:
        rest = (path.name for path in sorted(folder.glob(f"*{weights.SAFE}")))
        there = [folder / file for file in (*_FOLDER_FILES, *rest) if (folder / file).is_file()]
        if not there:
            raise ModelError(f"'{folder}' holds no weights; wanted {WEIGHTS_FILE}")
        checkpoint = there[0]
    return replace(source, weights=checkpoint, folder=folder, resizes=resizes)


def _on_hub(repository: str, checkpoint: Path | None, allow_pickle: bool) -> Source:
    source = _configured(hub.fetch(repository, [CONFIG_FILE]))
    found = checkpoint or _download(f"hf-hub:{repository}", f"{repository}/", allow_pickle)
    return replace(source, weights=found, resizes=checkpoint is None)


def _configured(path: Path) -> Source:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        cfg, preprocess = told["model_cfg"], told.get("preprocess_cfg") or {}
        if not all(isinstance(cfg[key], dict) for key in ("vision_cfg", "text_cfg")):
            raise TypeError("vision_cfg and text_cfg are not objects")
        if not isinstance(cfg["embed_dim"], int):
            raise TypeError("embed_dim is not a number")
        return Source(cfg, dict(preprocess), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = architectures.first_line(error)
        raise ModelError(
            f"'{path}' is no config of an open_clip model ({reason}); copy the folder again"
        ) from error


def _download(name: str, place: str, allow_pickle: bool) -> Path:
    """place: REPOSITORY/FILE as open_clip lists it; REPOSITORY/ has the usual names."""
    repository, _, file = place.rpartition("/")
    pickled = file or PICKLED_FILE
    safe = str(Path(file).with_suffix(weights.SAFE)) if file else WEIGHTS_FILE
    try:
        return hub.fetch(repository, [safe, pickled] if allow_pickle else [safe])
    except ModelError as error:
        more = "" if allow_pickle else "; allow_pickle=True (--allow-pickle) looks for a pickle too"
        raise ModelError(f"{name} cannot be loaded: {error}{more}") from error
