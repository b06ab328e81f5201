"""What a build writes beside its shards: `manifest.json` and `ATTRIBUTION.md`."""

import json
from pathlib import Path

from data_pipelines.drawing import SetReport

LICENSE_URLS = {
    "MIT": "https://spdx.org/licenses/MIT.html",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-PDDC": "https://spdx.org/licenses/CC-PDDC.html",
}


def write_manifest(folder: Path, facts: dict, reports: dict[str, SetReport]) -> None:
    """`manifest.json`: the facts of the build, then what became of every set."""
    sets = {
        name: {
            "license": report.license,
            "author": report.author,
            "url": report.url,
            "found": report.found,
            "kept": report.kept,
            "dropped": dict(sorted(report.dropped.items())),
        }
        for name, report in reports.items()
    }
    text = json.dumps({**facts, "sets": sets}, indent=2, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def write_attribution(
    folder: Path, reports: dict[str, SetReport], counts: dict[str, int], changes: str
) -> None:
    """`ATTRIBUTION.md`: author, source, licence and count of every set used, and the changes."""
    lines = [
        "# Attribution",
        "",
        f"The pictures here are the work of the authors below. Changes made: {changes}.",
        "",
        "| set | author | source | licence | pictures |",
        "|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        if counts.get(name):
            license_link = f"[{report.license}]({LICENSE_URLS[report.license]})"
            source = f"<{report.url}>" if report.url else "npm @iconify/json"
            lines.append(
                f"| {name} | {report.author} | {source} | {license_link} | {counts[name]} |"
            )
    (folder / "ATTRIBUTION.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
