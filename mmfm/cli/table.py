"""A click group whose commands live in modules that are not imported before they are needed."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import click


class VerbTable(click.Group):
    """verbs: each with its line in the help; verb V is `command` in the module PACKAGE.V."""

    def __init__(self, *args: Any, verbs: dict[str, str], package: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verbs = verbs
        self.package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.verbs:
            return importlib.import_module(f"{self.package}.{cmd_name}").command
        if cmd_name.startswith("-"):
            return None
        near = difflib.get_close_matches(cmd_name, self.verbs, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(self.verbs)}."
        ctx.fail(f"there is no command '{cmd_name}'; {hint}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))
