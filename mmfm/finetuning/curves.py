"""A line through a few points, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 340, 150, 46, 20
_COLOURS = ("#1f6feb", "#d1570a", "#2d8a34", "#8250df")


@dataclass(frozen=True)
class Curve:
    """points: of each line, by its name, (step, value)."""

    title: str
    points: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    def svg(self) -> str:
        """A figure with the range of both axes written at their ends; empty without points."""
        every = [point for line in self.points.values() for point in line]
        if not every:
            return ""
        xs, ys = [x for x, _ in every], [y for _, y in every]
        low, high = min(ys), max(ys)
        low, high = (low - 0.5, high + 0.5) if high == low else (low, high)
        first, last = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1

        def place(point: tuple[float, float]) -> str:
            x = _LEFT + (point[0] - first) / (last - first) * (_WIDTH - _LEFT - 8)
            y = 8 + (high - point[1]) / (high - low) * (_HEIGHT - _BOTTOM - 16)
            return f"{x:.1f},{y:.1f}"

        lines, legend = [], []
        for (name, line), colour in zip(self.points.items(), _COLOURS * len(self.points)):
            path = " ".join(map(place, line))
            lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" '
                         'stroke-width="1.8"/>')  # fmt: skip
            legend.append(f'<span style="color:{colour}">{escape(name)}</span>')
        texts = (
            (2, 14, f"{high:.3g}"), (2, _HEIGHT - _BOTTOM - 4, f"{low:.3g}"),
            (_LEFT, _HEIGHT - 6, f"{first:g}"), (_WIDTH - 44, _HEIGHT - 6, f"{last:g} steps"),
        )  # fmt: skip
        labels = "".join(f'<text x="{x}" y="{y}">{escape(text)}</text>' for x, y, text in texts)
        return (
            f'<div class="curve"><b>{escape(self.title)}</b> {" ".join(legend)}<br>'
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(self.title)}">'
            f'<path d="M{_LEFT} 8V{_HEIGHT - _BOTTOM}H{_WIDTH - 8}" fill="none" stroke="#bbb"/>'
            f"{''.join(lines)}{labels}</svg></div>"
        )
