"""File names say what is inside, and no file knows the machine it was written on."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("mmfm", "data_pipelines", "train", "benchmarks", "tests", "notebooks", "docs", ".ci")
TEXTS = {".py", ".md", ".cfg", ".toml", ".json", ".jsonl", ".yaml", ".ipynb", ".txt", ""}
SAYS_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "stuff"}
HOME = re.compile(r"(?<![\w.])(/home/\w+|/root/\w+|/Users/\w+|[A-Z]:\\Users\\)")


def files(suffixes=None):
    """Files of the project, of any suffix or of the named ones; caches do not count."""
    inside = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))
    every = [path for path in [*ROOT.iterdir(), *inside] if path.is_file()]
    right = [path for path in every if suffixes is None or path.suffix in suffixes]
    return [path for path in right if "__pycache__" not in path.parts]


def test_no_file_is_called_utils():
    assert [path for path in files() if path.stem.lower().strip("_") in SAYS_NOTHING] == []


def test_no_file_names_somebodys_home():
    texts = {path: path.read_text(encoding="utf-8", errors="ignore") for path in files(TEXTS)}
    found = {path.relative_to(ROOT).as_posix(): HOME.findall(text) for path, text in texts.items()}
    assert {name: hits for name, hits in found.items() if hits} == {}
