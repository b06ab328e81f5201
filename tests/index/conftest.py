"""A small real embedder: a picture is its colours, a text is the colours it names."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmfm.preprocess.images import as_image_list, load_image, to_pixels

WORDS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}


class ColourEmbedder:
    """Pictures as 4 x 4 pixels through a fixed random projection to 32 numbers, unit length.

    A text is the flat picture of the mean of the colours it names. `seen` counts pictures.
    """

    def __init__(self, seed: int = 0) -> None:
        self.name = "colours"
        self.backbone_hash = f"{seed:064x}"
        self.seen = 0
        self._project = np.random.default_rng(seed).standard_normal((48, 32)).astype(np.float32)

    def embed_images(self, images, batch_size: int = 64) -> np.ndarray:
        images = [load_image(source) for source in as_image_list(images)]
        self.seen += len(images)
        return np.concatenate([self._unit(to_pixels(image, 4)[None]) for image in images])

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        colours = [np.mean([WORDS[word] for word in text.split()], axis=0) for text in texts]
        flat = np.stack([np.broadcast_to(c[:, None, None], (3, 4, 4)) for c in colours])
        return self._unit(flat.astype(np.float32))

    def _unit(self, pixels: np.ndarray) -> np.ndarray:
        rows = pixels.reshape(len(pixels), -1) @ self._project
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def embedder() -> ColourEmbedder:
    return ColourEmbedder()


@pytest.fixture
def gallery(tmp_path):
    """A folder with red, green, blue and twelve noisy pictures, one of them in a folder below."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name in ("red", "green", "blue"):
        colour = tuple(max(0, 255 * value) for value in WORDS[name])
        Image.new("RGB", (8, 8), colour).save(folder / f"{name}.png")
    for number in range(12):
        place = folder / ("below" if number == 0 else ".") / f"noise{number:02}.png"
        noise(number).save(place)
    return folder


def noise(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))


@pytest.fixture
def make_noise():
    return noise


@pytest.fixture
def make_embedder():
    return ColourEmbedder


@pytest.fixture(scope="session")
def postgres():
    """Address of a real server with pgvector; for root it runs as `nobody`, as it must."""
    package = find_spec("pgserver")
    if package is None:
        pytest.skip("pgserver is not installed")
    home = Path(tempfile.mkdtemp(prefix="mmfm-pg", dir="/tmp"))  # a socket's path must be short
    user = {}
    if os.geteuid() == 0:
        import pwd

        who = pwd.getpwnam("nobody")
        user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
        os.chown(home, who.pw_uid, who.pw_gid)
    run = partial(subprocess.run, check=True, cwd=home, stdout=subprocess.DEVNULL, **user)
    server = None
    try:
        programs = _programs(Path(package.submodule_search_locations[0]), home, run)
        make = [programs / "initdb", "-D", home / "data", "-A", "trust", "-U", "postgres"]
        run([*make, "-E", "utf8", "--no-locale", "--no-sync"])
        start = [programs / "postgres", "-D", home / "data", "-k", home, "-F"]
        with open(home / "log", "wb") as log:
            server = subprocess.Popen(
                [*start, "-c", "listen_addresses="], **user, cwd=home, stderr=log
            )
        url = f"postgresql://postgres@/postgres?host={home}"
        _await(url, server, home / "log")
        yield url
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)
            server.wait(60)
        shutil.rmtree(home, ignore_errors=True)


def _programs(package, home, run):
    """PostgreSQL's, where the user who runs them can read them; /root is closed to `nobody`."""
    try:
        run([package / "pginstall/bin/postgres", "--version"])
    except (PermissionError, subprocess.CalledProcessError):
        for folder in (package, package.with_name("pgserver.libs")):
            if folder.exists():
                shutil.copytree(folder, home / "programs" / folder.name)
        package = home / "programs" / package.name
    return package / "pginstall/bin"


def _await(url, server, log):
    import psycopg

    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture
def new_url(request, tmp_path):
    """Gives the address of a fresh index of an engine, as often as it is called."""

    def new(engine):
        name = f"t{uuid.uuid4().hex}"
        if engine == "pgvector":
            return f"{request.getfixturevalue('postgres')}&table={name}"
        place = tmp_path / name
        return str(place) if engine == "flat" else f"{engine}:{place}"

    return new
