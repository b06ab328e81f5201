"""One noun a file: a file that grows past 400 lines holds two."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("mmfm", "data_pipelines", "train", "benchmarks", "tests", "notebooks")


def test_files_stay_below_400_lines():
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length >= 400} == {}
