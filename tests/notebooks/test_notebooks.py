"""The notebooks run from start to end on the shipped weights, and equal their percent scripts."""

import os
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
OFFLINE = """
import socket
def refuse(self, address, connect=socket.socket.connect):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
        raise RuntimeError(f"a notebook reached for {address}; they run without a network")
    return connect(self, address)
socket.socket.connect = refuse
"""


def notebook(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Name of a kernel of this very Python that reaches nothing but its own machine."""
    write_kernel_spec(tmp_path / "jupyter" / "kernels" / "here")
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    return "here"


def test_every_script_has_a_notebook_and_every_notebook_a_script():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES
    assert len(NAMES) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_equals_its_script_and_keeps_no_outputs(name):
    script, kept = jupytext.read(FOLDER / f"{name}.py"), notebook(name)
    assert [(cell.cell_type, cell.source) for cell in kept.cells] == [
        (cell.cell_type, cell.source) for cell in script.cells
    ]
    assert kept.metadata.kernelspec == script.metadata.kernelspec
    for cell in kept.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_fits_on_two_screens(name):
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 80


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_offline_and_shows_its_results(name, kernel, tmp_path):
    folder = tmp_path / "reader"
    folder.mkdir()
    ran = notebook(name)
    ran.cells.insert(0, nbformat.v4.new_code_cell("import sys; print(sys.executable)"))
    client = NotebookClient(
        ran, kernel_name=kernel, timeout=600, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    outputs = [output for cell in ran.cells for output in cell.get("outputs", [])]
    assert outputs[0].text.strip() == sys.executable
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    printed = [output for output in outputs[1:] if output.get("name") == "stdout"]
    assert len(shown) >= 3 and printed
