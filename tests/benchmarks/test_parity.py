"""The table of parity: equal where we are equal, and an error where a difference is planted."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = {"image", "text", "image_tokens", "text_tokens", "preprocess"}


def test_the_table_has_a_line_for_each_architecture():
    command = [sys.executable, "-m", "benchmarks.parity", "PE-Core-T-16-384", "roberta-ViT-B-32"]
    done = subprocess.run([*command, "--count", "2"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    line, foreign = (json.loads(text) for text in done.stdout.splitlines())
    assert line["case"] == "PE-Core-T-16-384" and line["equal"] is True
    assert all(0 <= line[part] <= line["gate"] for part in PARTS)
    assert foreign["equal"] is None and "roberta-base" in foreign["needs"]


def test_a_difference_in_one_token_fails(monkeypatch, capsys):
    import pytest

    from benchmarks import parity
    from mmfm.encoders.backbone import Backbone

    read = Backbone.encode_texts

    def wrong(self, ids, length=None):
        said = read(self, ids, length)
        said.tokens[0, 1] += 2e-5
        return said

    monkeypatch.setattr(Backbone, "encode_texts", wrong)
    monkeypatch.setattr(sys, "argv", ["parity", "PE-Core-T-16-384", "--count", "1"])
    with pytest.raises(SystemExit, match="PE-Core-T-16-384 differ"):
        parity.main()
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["equal"] is False
