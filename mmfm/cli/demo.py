"""`mmfm demo`: all three skills on the gallery of the package, as pictures and one HTML page."""

from __future__ import annotations

import json
import time

import click

from mmfm.cli import gallery
from mmfm.cli.options import Run, shared
from mmfm.cli.outputs import writable_folder


@click.command("demo")
@click.option("-o", "--output", required=True, help="Folder for the page and the pictures.")
@shared
def command(run: Run, output: str) -> None:
    """Search, caption and generate with the drawings in the package; leaves index.html to open."""
    folder = writable_folder(output)
    start = time.monotonic()
    run.say("loading the model")
    model = run.load()

    from mmfm import __version__
    from mmfm.cli import showcase
    from mmfm.cli.sheet import section_sheet
    from mmfm.index import Index
    from mmfm.page import document, footer

    facts = {
        "model": run.model,
        "backbone": model.backbone_hash,
        "seed": run.seed or 0,
        **model.config.generation,
        "software": f"mmfm {__version__}",
    }
    drawings = gallery.read()
    run.say(f"searching {len(drawings)} drawings")
    index = Index.build(model, gallery.FOLDER, progress=run.progress)
    acts = {"search": showcase.search(index, drawings)}
    run.say("captioning")
    acts["captions"] = showcase.caption(model, drawings)
    run.say("generating")
    acts["generated"] = showcase.generate(model, index, drawings, folder, facts)

    for name, act in acts.items():
        section_sheet(act.section).save(folder / f"{name}.png")
    seconds = round(time.monotonic() - start, 1)
    results = {**facts, "drawings": len(drawings), "seconds": seconds}
    results |= {name: act.records for name, act in acts.items()}
    text = json.dumps(results, ensure_ascii=False, indent=2)
    (folder / "results.json").write_text(text, encoding="utf-8")
    page = folder / "index.html"
    html = document(
        "mmfm: one backbone, three skills",
        f"Made by one set of weights, “{run.model}”, in {seconds:.0f} seconds. The {len(drawings)} "
        "drawings belong to the test split: “mini” was not trained on them.",
        "".join(act.section.html() for act in acts.values()) + footer(gallery.attribution()),
    )
    page.write_text(html, encoding="utf-8")
    run.say("open this page in a browser:")
    run.result({"page": str(page), **results}, str(page.resolve()))
