"""`mmfm classify`: which of the user's labels fits each picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mmfm.cli.options import Run, shared
from mmfm.cli.pictures import expand
from mmfm.errors import InputError, TextError

if TYPE_CHECKING:
    from mmfm.model import MMFM


@click.command("classify")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--labels", help='The labels to choose from: "cat,dog|puppy,a red car"; | stands '
              "between words for one label.")  # fmt: skip
@click.option("--templates", metavar="NAME|FILE", help="Sentences to put labels into, averaged: a "
              "file with {} in each line, or label, photo, drawing, simple, imagenet.")  # fmt: skip
@click.option("--examples", metavar="FOLDER", help="Learn from pictures in sub-folders named by "
              "label, instead of from words.")  # fmt: skip
@click.option("--method", type=click.Choice(["probe", "knn"]), help="How to learn.  [probe]")
@click.option("-k", type=click.IntRange(1), help="Neighbours that knn asks.  [20]")
@click.option("--head", metavar="FILE", help="Use a classifier that --save wrote.")
@click.option("--save", metavar="FILE", help="Keep the classifier (.safetensors), but for knn.")
@shared
def command(
    run: Run, images: tuple[str, ...], labels: str | None, templates: str | None,
    examples: str | None, method: str | None, k: int | None, head: str | None, save: str | None,
) -> None:  # fmt: skip
    """Say which of your labels fits each picture (or each picture of a folder).

    The labels come as words (--labels), as examples (--examples; --labels then adds words to start
    from), or from a file (--head).
    """
    _expect_one_way(labels, templates, examples, method, k, head, save)
    words = None if labels is None else _words(labels)
    paths = expand(images)
    if save is not None:
        from mmfm.cli.outputs import writable_file

        writable_file(save, (".safetensors",))
    model = run.load()
    classifier: Any
    if head is not None:
        from mmfm.classify import LinearHead

        classifier = LinearHead.load(head)
    elif examples is not None:
        prior = None if words is None else model.zero_shot_head(words, templates)
        classifier = _learn(run, model, examples, method or "probe", k, prior)
    else:
        classifier = model.zero_shot_head(words or {}, templates)
    if save is not None:
        classifier.save(save)
    table = model.classify(paths, classifier, progress=run.progress)
    found, lines = [], []
    for path, row in zip(paths, table):
        scores = {name: round(float(score), 6) for name, score in zip(classifier.labels, row)}
        best = max(scores, key=scores.__getitem__)
        found.append({"path": path, "label": best, "scores": scores})
        lines.append(f"{path}\t{best}\t{scores[best]:.3f}")
    run.result(found, "\n".join(lines))


def _expect_one_way(
    labels: str | None, templates: str | None, examples: str | None, method: str | None,
    k: int | None, head: str | None, save: str | None,
) -> None:  # fmt: skip
    knn = method == "knn"
    for wrong, told in (
        (not (labels or examples or head), "say what to choose from: --labels, --examples or"
         " --head"),
        (head and (labels or examples or save), "--head is a classifier already; leave --labels,"
         " --examples and --save away"),
        (templates and not labels, "--templates are for the words of --labels"),
        (method and not examples, "--method is for --examples"),
        (k and not knn, "-k is for --method knn"),
        (knn and (labels or save), "knn has no words to start from and nothing to save; leave"
         " --labels and --save away"),
    ):  # fmt: skip
        if wrong:
            raise InputError(told)


def _words(labels: str) -> dict[str, list[str]]:
    groups = [[word.strip() for word in group.split("|")] for group in labels.split(",")]
    names = [group[0] for group in groups]
    if len(names) < 2 or any("" in group for group in groups) or len(set(names)) < len(names):
        raise TextError(
            f"--labels got '{labels}'; it wants two or more different labels with commas between"
        )
    return dict(zip(names, groups))


def _learn(
    run: Run, model: MMFM, folder: str, method: str, k: int | None, prior: Any
) -> Any:  # fmt: skip
    """A classifier from a folder with a sub-folder of pictures for each label."""
    from mmfm.classify import KNN, fit_linear_probe
    from mmfm.data.layouts.labelled import labelled_pictures

    files, targets = labelled_pictures(folder)
    vectors = model.embed_images(files, progress=run.progress)
    space = model.backbone_hash
    if method == "knn":
        return KNN(vectors, targets, space=space, **({} if k is None else {"k": k}))
    if prior is not None and (unknown := sorted(set(targets) - set(prior.labels))):
        raise InputError(
            f"--examples has the label '{unknown[0]}', which --labels lacks; name all, or none"
        )
    return fit_linear_probe(vectors, targets, prior=prior, space=space)
