"""What every verb shares: the options `--model` to `--json`, and how it speaks."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mmfm.model import MMFM


@dataclass(frozen=True)
class Run:
    """The shared options of one call, handed to the verb as its first argument."""

    model: str
    device: str | None
    seed: int | None
    as_json: bool
    allow_pickle: bool = False
    adapter: str | None = None

    def load(self) -> MMFM:
        """The model that the call names, on the device that it names."""
        import mmfm

        listen()
        return mmfm.load(
            self.model, device=self.device, allow_pickle=self.allow_pickle, adapter=self.adapter
        )

    @property
    def progress(self) -> bool:
        """Whether bars are wanted on stderr: where somebody looks on, not in a log or a pipe."""
        return sys.stderr.isatty()

    def say(self, words: str) -> None:
        """A line for people, on stderr."""
        click.echo(words, err=True)

    def result(self, document: Any, lines: str) -> None:
        """The result, on stdout: `document` as the one JSON text under --json, else `lines`."""
        click.echo(json.dumps(document, ensure_ascii=False, indent=2) if self.as_json else lines)


def listen() -> None:
    """What the package tells (which precision it chose) becomes a line on stderr."""
    log = logging.getLogger("mmfm")
    if not any(isinstance(handler, _OnStderr) for handler in log.handlers):
        log.addHandler(_OnStderr(logging.INFO))
        log.setLevel(logging.INFO)
        log.propagate = False  # why: a library that configures the root would show the line twice


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"mmfm: {record.getMessage()}", err=True)


def shared(verb: Callable[..., None]) -> Callable[..., None]:
    """Decorate a verb with the shared options; it receives them as one `Run`."""

    @click.option("--model", default="mini", show_default=True,
                  help="What ships, a bundle, open_clip:ARCH/TAG, open_clip:ARCH/FILE, "
                       "hf-hub:ORG/NAME, local-dir:PATH.")  # fmt: skip
    @click.option("--adapter", metavar="FOLDER", help="An adapter of that model (mmfm[lora]).")
    @click.option("--allow-pickle", is_flag=True, help="Read .pt and .bin weights: tensors only.")
    @click.option("--device", help="cpu, cuda, cuda:1, mps; default: the best one present.")
    @click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Makes draws repeatable.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
    @functools.wraps(verb)
    def with_run(
        model: str, device: str | None, seed: int | None, as_json: bool, allow_pickle: bool,
        adapter: str | None, **options: Any,
    ) -> None:  # fmt: skip
        verb(Run(model, device, seed, as_json, allow_pickle, adapter), **options)

    return with_run


def named(verb: Callable[..., None]) -> Callable[..., None]:
    """Decorate a verb that is about one model: `mmfm VERB mini` is `mmfm VERB --model mini`."""

    @click.argument("name", metavar="[MODEL]", required=False)
    @functools.wraps(verb)
    def with_name(run: Run, name: str | None, **options: Any) -> None:
        told = click.get_current_context().get_parameter_source("model")
        if name is not None and told is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"got MODEL {name!r} and --model {run.model!r}; give one")
        verb(run if name is None else replace(run, model=name), **options)

    return with_name


def given(**options: Any) -> dict[str, Any]:
    """The options that the caller set, so that the Python defaults hold for the others."""
    return {name: value for name, value in options.items() if value is not None}
