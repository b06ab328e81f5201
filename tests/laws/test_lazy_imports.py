"""`import mmfm` and `mmfm --help` answer at once: they load nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "open_clip", "diffusers", "webdataset", "numpy", "PIL")


@pytest.mark.parametrize(
    "code",
    [
        "import mmfm",
        "import mmfm.cli; mmfm.cli.main(['--help'])",
        "import mmfm.cli; mmfm.cli.main(['--version'])",
        "import mmfm.cli; mmfm.cli.main(['search', '--help'])",
        "import mmfm.cli; mmfm.cli.main(['generate', '--help'])",
    ],
)
def test_nothing_heavy_is_loaded(code):
    told = f"{code}\nimport sys\nprint([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
