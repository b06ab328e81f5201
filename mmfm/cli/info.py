"""`mmfm info`: what a model is and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from mmfm.cli.options import Run, named, shared

_LONG = ("recipe", "archives_sha256", "ports")  # --json has them


@click.command("info")
@shared
@named
def command(run: Run) -> None:
    """Say what MODEL is made of, what it was measured to do, under which licence, and what it cost.

    With --json everything that its files say, sizes and hashes too.
    """
    from mmfm import bundle
    from mmfm.papers import Papers

    facts = run.load().info()
    folder = bundle.find(run.model)
    if folder is not None:
        papers = Papers.read(folder)
        facts |= {"licences": papers.licences, "files": papers.files, "changed": papers.changed}
    run.result(facts, "\n".join(summary(facts)))


def summary(facts: Mapping[str, Any]) -> list[str]:
    """The facts of a model for people: what it is, how good, how large, whose, and at what cost."""
    size = sum(one["bytes"] for one in facts.get("files", {}).values())
    apart = ("figures", "compute", "licences", "files", "changed", "trained_on", "bias", "limits",
             "commands")  # fmt: skip
    lines = lines_of(_short({k: v for k, v in facts.items() if k not in apart}))
    if "files" in facts:
        lines += [f"files{'':<24}{len(facts['files'])}, {size / 1e6:.1f} MB; {_agreement(facts)}"]
        lines += [f"  {name:<26} {one['bytes']:>12,}  sha256 {one['sha256'][:16]}"
                  for name, one in facts["files"].items()]  # fmt: skip
    lines += _figures(facts.get("figures", {}))
    for name in ("bias", "trained_on"):
        if facts.get(name):
            lines += lines_of({name: _short(facts[name])})
    if facts.get("limits"):
        lines += ["limits", *(f"  {one}" for one in facts["limits"])]
    if facts.get("licences"):
        lines += ["licences of the data"]
        lines += [f"  {name:<26} {one['pictures']:,} pictures of {len(one['sets'])} sets"
                  for name, one in facts["licences"].items()]  # fmt: skip
    return lines + _cost(facts.get("compute"))


def _figures(splits: Mapping[str, Any]) -> list[str]:
    """Splits side by side, or what there is of them where it is measured otherwise."""
    from mmfm.card import FIGURES, figures_of

    head, rows = figures_of(splits, FIGURES)
    if not rows:
        return lines_of({"figures": _short(splits)}) if splits else []
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    return [
        f"{'figures' if row is head else '  ' + row[0]:<{widths[0] + 2}}"
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:]))
        for row in (head, *rows)
    ]


def lines_of(facts: Mapping[str, Any], indent: str = "") -> list[str]:
    """Nested facts as indented lines, for people."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}", *lines_of(value, indent + "  ")]
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else _number(value)
            lines.append(f"{indent}{name:<{28 - len(indent)}} {shown}")
    return lines


def _short(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without what nobody reads in a terminal, and hashes cut."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            if name not in _LONG:
                found[name] = _short(value)
        elif name == "about":
            continue
        elif name.endswith(("hash", "sha256")):
            found[name] = str(value)[:16]
        else:
            found[name] = value
    return found


def _agreement(facts: Mapping[str, Any]) -> str:
    changed = facts["changed"]
    if changed is None:
        return "no manifest to compare them with"
    return f"NOT as in the manifest: {', '.join(changed)}" if changed else "as in the manifest"


def _cost(compute: Mapping[str, Any] | None) -> list[str]:
    if not compute:
        return [f"compute{'':<21} not recorded"]
    lines = [f"compute{'':<21} FLOP, texts of {compute['flops_text_tokens']} tokens"]
    lines += [f"  one {name.replace('_', ' '):<22} {value:.3g}"
              for name, value in compute["flops"].items()]  # fmt: skip
    training, energy = compute["training"], compute["energy"]
    if training is None:
        return [*lines, f"  training{'':<18} not recorded"]
    seconds = training["cpu_seconds"]
    hours = "CPU hours not recorded" if seconds is None else f"{seconds / 3600:.3g} CPU hours"
    lines.append(f"  training{'':<18} {training['flops']:.3g}, {training['samples']:,} samples, "
                 f"{hours}; {training['share_of_guideline']:.1g} of "
                 f"{training['flops_guideline']:.0e}")  # fmt: skip
    if energy is not None:
        low, high = energy["kwh"]
        watts = " to ".join(f"{watt:g}" for watt in energy["watts_per_core"])
        lines.append(f"  energy{'':<20} {low:.3g} to {high:.3g} kWh at {watts} W a core, assumed")
    return lines


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
