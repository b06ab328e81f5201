"""The `mmfm` command: a table of verbs, each a module that is imported only when it is chosen.

Why the table: `mmfm --help` must answer at once, so nothing here imports numpy, torch or a model.
Exit codes: 0 done, 1 the work failed, 2 the input or the call was wrong, 130 interrupted; every
failure is one line on stderr. MMFM_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Sequence

import click

from mmfm.cli.table import VerbTable
from mmfm.errors import InputError

VERBS = {  # verb -> its line in the help; its module is mmfm.cli.<verb>
    "embed": "Write vectors of pictures and texts to a file.",
    "index": "Index a folder of pictures, for search.",
    "search": "Find pictures by text, by picture, or by both.",
    "classify": "Say which of your labels fits each picture.",
    "caption": "Describe pictures in words.",
    "generate": "Draw pictures from texts, pictures, or both.",
    "edit": "Change a picture by the difference of two texts.",
    "demo": "Show all three skills on real drawings, as one page.",
    "data": "Inspect, shard, filter and embed data sets.",
    "finetune": "Adapt all three skills to a folder of pictures.",
    "train": "Train a backbone from shards, by a recipe.",
    "evaluate": "Measure a model on held-out shards.",
    "export": "Write the backbone for open_clip or ONNX Runtime.",
    "card": "Write the model card of a bundle.",
    "info": "Say what a model is and how good it is.",
}


@click.group(
    cls=VerbTable,
    verbs=VERBS,
    package=__name__,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.pass_context
def cli(ctx: click.Context, version: bool) -> None:
    """One backbone, three skills: search, caption and generate pictures with one set of weights."""
    if version:
        import mmfm

        click.echo(f"mmfm {mmfm.__version__}")
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises, never prints a traceback unasked."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _complain("warning", message)
        try:
            return cli.main(args=argv, prog_name="mmfm", standalone_mode=False) or 0
        except click.ClickException as wrong:
            _complain("error", wrong.format_message())
            return 2
        except InputError as wrong:
            _debug()
            _complain("error", wrong)
            return 2
        except SystemExit as left:  # 1 is click's answer to a closed pipe, as in `… | head -1`
            return 0 if left.code in (None, 1) else left.code if isinstance(left.code, int) else 1
        except (click.Abort, KeyboardInterrupt):
            _complain("stopped", "interrupted")
            return 130
        except Exception as failure:
            _debug()
            _complain("failed", f"{type(failure).__name__}: {failure}")
            return 1


def _complain(kind: str, message: object) -> None:
    click.echo(f"mmfm: {kind}: {' '.join(str(message).split())}", err=True)


def _debug() -> None:
    if os.environ.get("MMFM_DEBUG") == "1":
        traceback.print_exc()
