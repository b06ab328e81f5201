"""`mmfm card`: the model card of a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from mmfm.cli.options import Run, named, shared
from mmfm.cli.outputs import writable_file


@click.command("card")
@click.option("-o", "--output", metavar="FILE", help="Write it there, .md.  [stdout]")
@shared
@named
def command(run: Run, output: str | None) -> None:
    """Write the card of MODEL, one that ships or a bundle, as Markdown that the Hugging Face hub
    reads. Every figure is one of the bundle's own files; no weights are loaded.
    """
    path = None if output is None else writable_file(output, (".md",))
    from mmfm import bundle, card
    from mmfm.errors import ModelError
    from mmfm.papers import Papers

    folder = bundle.find(run.model)
    if folder is None:
        raise ModelError(
            f"there is no bundle {run.model!r} to make a card of; wanted 'mini' or a folder that "
            "save_pretrained wrote"
        )
    papers = Papers.read(Path(folder))
    text = card.markdown(papers)
    if path is not None:
        path.write_text(text, encoding="utf-8")
    document = {
        "model": papers.config["name"], "output": None if path is None else str(path),
        "front_matter": card.front_matter(papers).to_dict(), "markdown": text,
    }  # fmt: skip
    run.result(document, text.rstrip() if path is None else str(path))
