"""One adapter of a whole model: a folder with one of PEFT's for each part that it changes.

    mmfm_adapter.json           the base's name, and the hash of each changed part as it was before
    towers/ captioner/ decoder/ what PEFT reads; towers/ onto open_clip's own model

Another base is refused: an adapter is a change of certain weights.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from mmfm.durable import replacing
from mmfm.errors import InputError, ModelError, OutputError
from mmfm.lora.adapter import is_open
from mmfm.lora.files import read, save
from mmfm.lora.switching import active, base_state, names, put, switch

FACTS, FORMAT = "mmfm_adapter.json", 1


def parts_of(model: Any) -> dict[str, nn.Module]:
    """The parts of an MMFM that can have an adapter, by the name of their folder."""
    found = {"towers": model.backbone, "captioner": model.captioner, "decoder": model.decoder}
    return {name: part for name, part in found.items() if isinstance(part, nn.Module)}


def save_set(model: Any, folder: str | Path) -> Path:
    """Write the adapters that the model's parts learn or have switched on.

    Raises InputError when no part has one, OutputError when it cannot be written.
    """
    folder = Path(folder)
    parts = {n: p for n, p in parts_of(model).items() if is_open(p) or active(p) is not None}
    if not parts:
        raise InputError(f"{model.name} has no adapter to save; lora.add or load_adapter gives one")
    for name, part in parts.items():
        save(part, folder / name)
    facts = {
        "format": FORMAT,
        "base": model.name,
        "hashes": {name: base_hash(part) for name, part in parts.items()},
    }
    try:
        with replacing(folder / FACTS) as file:
            file.write((json.dumps(facts, indent=2) + "\n").encode())
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}; choose another") from error
    return folder


def load_set(model: Any, folder: str | Path, name: str = "default") -> None:
    """Read what `save_set` wrote, call it `name`, and switch it on in every part that it changes;
    all other parts are the base's.

    Raises ModelError when it is not whole, or was made for other weights; InputError without peft.
    """
    folder, parts = Path(folder), parts_of(model)
    facts = _facts(folder)
    for part, wanted in facts["hashes"].items():
        if part not in parts:
            raise ModelError(f"{folder} changes a {part}, which {model.name} does not have")
        if base_hash(parts[part]) != wanted:
            raise ModelError(
                f"{folder} was made for the {part} of {facts['base']!r}, whose weights are not "
                f"those of {model.name!r}; load that model"
            )
    read_already = {part: read(folder / part) for part in facts["hashes"]}
    before = _on(parts)
    switch_set(model, None)
    try:
        for part, adapter in read_already.items():
            put(parts[part], adapter, name, trainable=False, told=str(folder / part))
    except InputError:
        switch_set(model, before)
        raise


def switch_set(model: Any, name: str | None) -> None:
    """Have the adapter called `name` on in all parts that it changes, and none in the others.

    None: the base, bit for bit. Raises InputError on a name that was not loaded.
    """
    parts = parts_of(model)
    known = list(dict.fromkeys(n for part in parts.values() for n in names(part)))
    if name is not None and name not in known:
        told = ", ".join(map(repr, known)) or "none"
        raise InputError(f"there is no adapter {name!r}; loaded are {told}")
    for part in parts.values():
        if known:
            switch(part, name if name in names(part) else None)


def on(model: Any) -> str | None:
    """The name of the adapter that is switched on."""
    return _on(parts_of(model))


def base_hash(part: nn.Module) -> str:
    """sha256 of the weights that a part has without any adapter."""
    digest = hashlib.sha256()
    for name, value in sorted(base_state(part).items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _on(parts: dict[str, nn.Module]) -> str | None:
    return next((name for part in parts.values() if (name := active(part)) is not None), None)


def _facts(folder: Path) -> dict[str, Any]:
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts["format"] != FORMAT:
            raise ModelError(f"{folder} is no adapter of format {FORMAT}: update mmfm")
        if not facts["hashes"]:
            raise ValueError("it changes nothing")
        return {"base": str(facts["base"]), "hashes": dict(facts["hashes"])}
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} is no adapter of a model: {FACTS} is missing; wanted what "
            "MMFM.save_adapter or mmfm finetune wrote"
        ) from error
    except ModelError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / FACTS} cannot be read ({error}); copy it again") from error
