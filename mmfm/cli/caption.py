"""`mmfm caption`: pictures become words, on the screen or in .txt files beside them."""

from __future__ import annotations

from pathlib import Path

import click

from mmfm.cli.options import Run, given, shared
from mmfm.cli.outputs import writable_file
from mmfm.cli.pictures import expand
from mmfm.errors import OutputError


@click.command("caption")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--prompt", default="", help="Words that every caption begins with.")
@click.option("--num-captions", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--num-beams", type=click.IntRange(1, 64), help="Beam search of this width.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw from this share.")
@click.option("--temperature", type=click.FloatRange(0, min_open=True), help="Of the draws.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest caption.")
@click.option("--write-txt", is_flag=True, help="Leave a .txt beside each picture.")
@click.option("--overwrite", is_flag=True, help="Let --write-txt replace .txt files.")
@shared
def command(
    run: Run,
    images: tuple[str, ...],
    prompt: str,
    num_captions: int,
    num_beams: int | None,
    top_p: float | None,
    temperature: float | None,
    max_tokens: int | None,
    write_txt: bool,
    overwrite: bool,
) -> None:
    """Describe pictures, or every picture of a folder, in words."""
    paths = expand(images)
    if write_txt:
        _expect_room(paths, overwrite)
    said = run.load().caption(
        paths,
        prompt=prompt,
        num_captions=num_captions,
        seed=run.seed,
        progress=run.progress,
        **given(num_beams=num_beams, top_p=top_p, temperature=temperature, max_tokens=max_tokens),
    )
    captions = said if num_captions > 1 else [[text] for text in said]
    if write_txt:
        for path, texts in zip(paths, captions):
            text = "".join(f"{line}\n" for line in texts)
            Path(path).with_suffix(".txt").write_text(text, encoding="utf-8")
        run.say(f"{len(paths)} .txt files written beside their pictures")
    run.result(
        [{"path": path, "captions": texts} for path, texts in zip(paths, captions)],
        "\n".join(f"{path}\t{' | '.join(texts)}" for path, texts in zip(paths, captions)),
    )


def _expect_room(paths: list[str], overwrite: bool) -> None:
    """Refuse before the work what would lose a caption that somebody wrote."""
    targets: dict[Path, str] = {}
    for path in paths:
        target = writable_file(Path(path).with_suffix(".txt"), (".txt",))
        if target in targets:
            raise OutputError(f"'{targets[target]}' and '{path}' share '{target}'; rename one")
        if target.exists() and not overwrite:
            raise OutputError(f"'{target}' exists already; add --overwrite to replace such files")
        targets[target] = path
