"""`mmfm info`: what a model is and how good it is."""

from __future__ import annotations

from typing import Any

import click

from mmfm.cli.options import Run, shared


@click.command("info")
@shared
def command(run: Run) -> None:
    """Say what a model is made of, what it was measured to do, and under which licence."""
    facts = run.load().info()
    run.result(facts, "\n".join(lines_of(facts)))


def lines_of(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Nested facts as indented lines, for people."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *lines_of(value, indent + "  ")]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else _number(value)
            lines.append(f"{indent}{name:<{28 - len(indent)}} {shown}")
    return lines


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
