"""The door itself: help, version, exit codes, one line for every mistake."""

import subprocess
import sys

import pytest

from mmfm import cli


def test_help_lists_every_verb(run):
    for done in (run(), run("--help"), run("-h")):
        assert done.code == 0
        assert all(verb in done.out and line in done.out for verb, line in cli.VERBS.items())


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help_and_the_shared_options(run, verb):
    done = run(verb, "--help")
    assert done.code == 0
    # `data` is a group of verbs; what `train` makes is no model yet, and its recipe has the seed
    shared = {"data": (), "train": ("--device", "--json")}
    for option in shared.get(verb, ("--model", "--device", "--seed", "--json")):
        assert option in done.out


def test_version(run):
    import mmfm

    assert run("--version").out == f"mmfm {mmfm.__version__}\n"


def test_an_unknown_verb_names_the_nearest(run):
    assert "'caption'" in run("captoin").refused()
    assert "demo" in run("xyzzy").refused()


@pytest.mark.parametrize(
    "args",
    [
        ("--nonsense",),
        ("search",),
        ("search", "folder"),
        ("embed", "-o", "x.npz"),
        ("generate", "a tree"),
        ("generate", "a tree", "-o", "x.png", "-n", "many"),
        ("caption", "x.png", "--num-beams", "0"),
    ],
)
def test_a_wrong_call_is_one_line(run, args):
    run(*args).refused()


def plant(monkeypatch, failure):
    """Make the `info` verb fail in a given way."""
    import mmfm.cli.info

    def fail(*_):
        raise failure

    monkeypatch.setattr(mmfm.cli.info.command, "invoke", fail)


def test_a_failure_of_the_work_is_one_line_and_exit_1(run, monkeypatch):
    plant(monkeypatch, RuntimeError("out of\n memory"))
    done = run("info")
    assert (done.code, done.out) == (1, "")
    assert done.err == "mmfm: failed: RuntimeError: out of memory\n"


def test_debug_adds_the_traceback(run, monkeypatch):
    plant(monkeypatch, RuntimeError("out of memory"))
    monkeypatch.setenv("MMFM_DEBUG", "1")
    done = run("info")
    assert done.code == 1
    assert "Traceback" in done.err


def test_ctrl_c_is_exit_130(run, monkeypatch):
    plant(monkeypatch, KeyboardInterrupt())
    assert run("info").code == 130


def test_a_closed_pipe_is_no_failure():
    """As in `mmfm … | head -0`: the reader is gone before the first line."""
    code = "import time; time.sleep(0.3); from mmfm.cli import main; raise SystemExit(main(['-h']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0


@pytest.mark.parametrize(("left", "code"), [(143, 143), (3, 3), (1, 0), (0, 0), (None, 0)])
def test_what_a_verb_leaves_with_is_passed_on_but_for_clicks_closed_pipe(
    run, monkeypatch, left, code
):
    plant(monkeypatch, SystemExit(left))
    assert run("info").code == code


def test_python_m_mmfm_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "mmfm", "nonsense"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mmfm: error: ")
