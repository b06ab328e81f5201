"""Imports go one way; this file holds the table."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# part of mmfm -> the parts it may import, whether at the top of a file or inside a function
BASE = {"config", "shapes", "errors", "durable"}
LOW = BASE | {"device", "presets", "layers", "preprocess"}
MIDDLE = {"encoders", "captioner", "decoder", "index"}
ABOVE = {"sentence", "classify", "captions", "drawing"}  # parts of the public object
TOP = LOW | MIDDLE | ABOVE | {"bundle", "card", "lora", "model", "loading", "papers"}
ALLOWED = {
    "errors": set(),
    "durable": set(),
    "page": set(),
    "shapes": {"errors"},
    "config": {"errors"},
    "device": {"errors"},
    "presets": {"config", "errors"},
    "layers": BASE,
    "preprocess": BASE,
    **dict.fromkeys(MIDDLE, LOW),  # never each other; they meet in model
    "data": BASE | {"preprocess"},  # never a model
    "papers": BASE,  # a bundle's files but for its weights
    "card": BASE | {"papers"},
    "bundle": LOW | {"papers", "card"},
    "heads": LOW | MIDDLE | {"bundle"},
    "sentence": LOW,
    "classify": LOW | {"index"},
    "captions": LOW | {"captioner", "encoders"},  # where the two meet, as in model
    "lora": LOW | {"encoders", "decoder"},  # of any part; which layers are those of what
    "adapters": {"lora"},  # a mixin: adapters of the whole model
    "drawing": LOW | {"encoders", "decoder", "bundle"},  # a mixin: words and pictures to maps
    "pipeline": LOW | MIDDLE,  # what to_diffusers makes
    "exchange": LOW | MIDDLE | {"pipeline"},  # a part of the public object too
    "model": LOW | MIDDLE | ABOVE | {"adapters", "bundle", "exchange", "heads"},
    "loading": LOW | MIDDLE | {"bundle", "model"},
    "sentence_transformer": TOP,  # loaded by that library
    "evaluation": TOP | {"data"},
    "jobs": TOP | {"data"},  # data meets a model: embedding and scoring over shards
    "training": TOP | {"data", "evaluation"},
    "finetuning": TOP | {"heads", "page", "data", "evaluation", "training"},
    "cli": TOP | {"page", "data", "evaluation", "jobs", "training", "finetuning", "mmfm"},
    "__main__": {"cli"},
    "mmfm": TOP | {"finetuning"},  # mmfm/__init__.py, the public names
}
PROGRAMS = ("data_pipelines", "train", "benchmarks")
ONE_FILE_EACH = ("open_clip", "webdataset")  # a new version can break only one file
DIFFUSERS = {  # each takes another part of it: schedulers, autoencoders, decoders, its own pipeline
    "mmfm/decoder/sampler.py", "mmfm/decoder/vae.py", "mmfm/decoder/published.py",
    "mmfm/pipeline/models.py",
    "mmfm/pipeline/pipeline.py",
}  # fmt: skip


def imports(path: Path, root: Path) -> list[str]:
    """Dotted names that a file imports; `from a import b` counts as a.b."""
    package = path.relative_to(root).parent.parts
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def part_of(path: Path, root: Path) -> str:
    inside = path.relative_to(root / "mmfm").parts
    return "mmfm" if inside == ("__init__.py",) else inside[0].removesuffix(".py")


def violations(root: Path) -> list[str]:
    """Every import under `root` that the table does not allow, in words."""
    wrong = []
    users = defaultdict(set)
    for path in sorted((root / "mmfm").rglob("*.py")):
        part, name = part_of(path, root), path.relative_to(root).as_posix()
        if part not in ALLOWED:
            wrong.append(f"{name}: '{part}' has no row in the table of layers")
            continue
        for module in imports(path, root):
            top, _, rest = module.partition(".")
            if top in ONE_FILE_EACH:
                users[top].add(name)
            if top == "diffusers" and name not in DIFFUSERS:
                wrong.append(f"{name} imports {module}; only {sorted(DIFFUSERS)} may")
            if top in PROGRAMS or top == "tests":
                wrong.append(f"{name} imports {module}")
            if top != "mmfm" or rest == "__version__":
                continue
            inner = rest.split(".")[0]
            target = inner if inner in ALLOWED else "mmfm"
            if target != part and target not in ALLOWED[part]:
                wrong.append(f"{name} imports {module}")
    for library, files in users.items():
        if len(files) > 1:
            wrong.append(f"{library} is imported by more than one file: {sorted(files)}")
    for program in PROGRAMS:
        for path in sorted((root / program).rglob("*.py")):
            for module in imports(path, root):
                if module.split(".")[0] in {*PROGRAMS, "tests"} - {program}:
                    wrong.append(f"{path.relative_to(root).as_posix()} imports {module}")
    return wrong


def test_imports_go_one_way():
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("mmfm/encoders/towers.py", "from mmfm.captioner import network"),
        ("mmfm/index/exact.py", "import mmfm.decoder.flow"),
        ("mmfm/captioner/decoding.py", "def late():\n    from mmfm import decoder"),
        ("mmfm/decoder/flow.py", "from ..model import MMFM"),
        ("mmfm/decoder/flow.py", "from mmfm import load"),
        ("mmfm/data/sample.py", "from mmfm import model"),
        ("mmfm/config.py", "from mmfm.layers import attention"),
        ("mmfm/training/loop.py", "from train import mini"),
        ("mmfm/model.py", "import data_pipelines.drawings"),
        ("mmfm/gadgets/thing.py", "import json"),
        ("mmfm/decoder/network.py", "def late():\n    from diffusers import AutoModel"),
        ("train/mini.py", "from data_pipelines import drawings"),
    ],
)
def test_a_planted_fault_is_caught(tmp_path, path, line):
    fault = tmp_path / path
    fault.parent.mkdir(parents=True)
    fault.write_text(f"{line}\n")
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("mmfm/cli/embed.py", "def command():\n    from mmfm import load"),
        ("mmfm/model.py", "def load():\n    from mmfm.decoder import flow"),
        ("mmfm/encoders/towers.py", "from . import open_clip"),
        ("mmfm/bundle.py", "from mmfm import __version__"),
        ("train/mini.py", "from mmfm.training import loop"),
    ],
)
def test_a_right_import_passes(tmp_path, path, line):
    right = tmp_path / path
    right.parent.mkdir(parents=True)
    right.write_text(f"{line}\n")
    assert violations(tmp_path) == []


def test_a_library_of_its_own_kind_has_one_door(tmp_path):
    (tmp_path / "mmfm/encoders").mkdir(parents=True)
    for name in ("a.py", "b.py"):
        (tmp_path / "mmfm/encoders" / name).write_text("import open_clip\n")
    assert len(violations(tmp_path)) == 1
