"""`mmfm export`: the backbone for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from mmfm.cli.options import Run, shared
from mmfm.cli.outputs import writable_folder


@click.command("export")
@click.option("-o", "--output", required=True, help="Folder to write.")
@click.option(
    "--format", "form", type=click.Choice(["open_clip", "onnx"]), default="open_clip",
    show_default=True, help="open_clip: config and safetensors; onnx: a graph for each tower.",
)  # fmt: skip
@shared
def command(run: Run, output: str, form: str) -> None:
    """Write the backbone of a model into a folder that other programs read.

    open_clip reads it as `local-dir:FOLDER`. For ONNX Runtime there are image.onnx (pixels ->
    vectors), text.onnx (ids -> vectors) and onnx.json, which says how pixels and ids are made.
    """
    folder = Path(output)
    writable_folder(folder.parent)
    model = run.load()
    if form == "onnx":
        from mmfm.encoders.onnx import export

        if run.progress:
            run.say("writing and checking both graphs; this takes a minute")
        export(model.backbone, folder)
    else:
        model.backbone.export(folder)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    run.result(
        {"output": str(folder), "format": form, "files": files},
        "\n".join(f"{size:>13,}  {folder / name}" for name, size in files.items()),
    )
