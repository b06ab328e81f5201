"""Search, captions and generation adapted together to one folder of pictures.

`settings` and `choices` decide, `pictures` and `split` read, `original` says what must not be lost,
`stages` train (`adaptation`, `projections`, and the heads' own tasks), `mixing` mixes old and new
weights, `measure` and `report` tell.
"""

from __future__ import annotations

import difflib
import os
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmfm.errors import InputError, OutputError
from mmfm.finetuning.report import FinetuneReport
from mmfm.finetuning.run import Prepared, prepare
from mmfm.finetuning.settings import Settings
from mmfm.loading import list_models, load
from mmfm.model import MMFM

__all__ = ["FinetuneReport", "Prepared", "Settings", "finetune", "prepare_finetune"]


def finetune(
    model: MMFM | str = "mini", *, images: str | os.PathLike[str], output: str | os.PathLike[str],
    original: str | os.PathLike[str] | None = None, kind: str | None = None, lora: bool = False,
    say: Callable[[str], None] = lambda line: None, stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> FinetuneReport:  # fmt: skip
    """Adapt search, captions and generation to a folder of pictures; the model given is unchanged.

    images: a folder or shards, all that `mmfm data inspect` understands; kind: its layout, where
    the rule would take another. output: folder of the new model, with report.html and report.json
    in it; with lora, of the adapter. original: pictures that the model knows, to see what is lost
    and to keep it; the drawings in the package for the model that ships. settings: as `Settings`
    names them, such as heads=("caption",), train="blocks:2", steps=200. say: gets lines for people.
    stop: ends the run early, resumable. A run that was broken off goes on by the same call.

    Raises InputError on settings, DataError on the folder, ModelError on a model that cannot learn
    this, OutputError where `output` cannot be written.
    """
    prepared = prepare_finetune(model, images=images, output=output, original=original, kind=kind,
                                lora=lora, say=say, **settings)  # fmt: skip
    for line in prepared.plan.lines():
        say(line)
    return prepared.run(say, stop)


def prepare_finetune(
    model: MMFM | str = "mini", *, images: str | os.PathLike[str], output: str | os.PathLike[str],
    original: str | os.PathLike[str] | None = None, kind: str | None = None, lora: bool = False,
    say: Callable[[str], None] = lambda line: None, **settings: Any,
) -> Prepared:  # fmt: skip
    """The first half of `finetune`: everything up to the plan, `.plan`; `.run()` is the other."""
    chosen = _settings(settings)
    if (
        isinstance(model, str)
        and Path(model).is_dir()
        and Path(output).resolve() == Path(model).resolve()
    ):
        raise OutputError(f"{output} is the model that learns; write the new one beside it")
    loaded = load(model, device="cpu") if isinstance(model, str) else model
    command = _command(str(model) if isinstance(model, str) else loaded.name, images, output,
                       original, kind, lora, settings)  # fmt: skip
    return prepare(
        loaded, images=images, output=output, original=original, kind=kind, lora=lora,
        settings=chosen, command=command, is_ours=_is_ours(loaded), say=say,
    )  # fmt: skip


def _same(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _settings(given: dict[str, Any]) -> Settings:
    known = [f.name for f in fields(Settings)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known) or known
            raise InputError(f"there is no setting {name!r}; the nearest are {', '.join(near)}")
    return Settings(**given)


def _is_ours(model: MMFM) -> bool:
    """Whether it is the model that ships, or was fine-tuned from it."""
    shipped = list_models()
    return model.name in shipped or model.metrics.get("finetuned", {}).get("base") in shipped


def _command(
    model: str, images: Any, output: Any, original: Any, kind: str | None, lora: bool,
    settings: dict[str, Any],
) -> str:  # fmt: skip
    words = ["mmfm", "finetune", str(images), "-o", str(output), "--model", model]
    if original is not None:
        words += ["--original", str(original)]
    if kind is not None:
        words += ["--layout", kind]
    words += ["--lora"] if lora else []
    for name, value in settings.items():
        shown = ",".join(value) if isinstance(value, (tuple, list)) else str(value)
        words += [f"--{name.replace('_', '-')}", shown]
    return shlex.join(words)
