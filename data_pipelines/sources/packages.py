"""Fetching archives with the clients they are published for (npm, apt-get) and reading them.

Nothing is unpacked to disk: members are streamed out of the archive by name.
"""

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmfm.errors import DataError

NPM = {
    "@iconify/json": ("2.2.535", "iconify-json-{}.tgz"),
    "emojibase-data": ("17.0.0", "emojibase-data-{}.tgz"),
}


def fetch_npm(name: str, cache: Path) -> Path:
    """Path of the pinned npm archive in `cache`, fetched by `npm pack` when it is not there."""
    version, pattern = NPM[name]
    archive = cache / pattern.format(version)
    if not archive.exists():
        fetched = _fetch(["npm", "pack", f"{name}@{version}"], cache, "*.tgz")
        fetched.rename(archive)
    return archive


def fetch_debian(name: str, cache: Path) -> Path:
    """Path of a Debian package in `cache`, fetched by `apt-get download` when it is not there."""
    held = sorted(cache.glob(f"{name}_*.deb"))
    if held:
        return held[-1]
    fetched = _fetch(["apt-get", "download", name], cache, "*.deb")
    return fetched.rename(cache / fetched.name)


def _fetch(command: list[str], cache: Path, pattern: str) -> Path:
    partial = cache / "partial"  # so that a broken download is never taken for an archive
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    run_client(command, cwd=partial)
    found = list(partial.glob(pattern))
    if len(found) != 1:
        raise DataError(f"`{' '.join(command)}` left {len(found)} archives; one was expected")
    return found[0]


def run_client(command: list[str], cwd: Path) -> None:
    """Run a package client; DataError in one sentence when it is missing or fails."""
    _expect_client(command[0])
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise DataError(
            f"`{' '.join(command)}` failed ({lines[-1] if lines else 'no message'});"
            " check the client's network and registry, then run this again"
        )


def _expect_client(name: str) -> None:
    if shutil.which(name) is None:
        raise DataError(f"the program `{name}` was not found; install it, or put it on PATH")


def read_npm(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, data) of the archive's regular files whose name, without `package/`, is wanted."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("package/")
                if member.isreg() and wanted(name):
                    yield name, tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive} cannot be read ({error}); remove it and run again") from None


@contextmanager
def debian_members(archive: Path) -> Iterator[Iterator[tuple[str, bytes]]]:
    """Stream (name, data) of the regular files of a .deb, names without the leading `./`.

    Links are left out: their targets come under their own name.
    """
    _expect_client("dpkg-deb")
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                yield (
                    (member.name.removeprefix("./"), tar.extractfile(member).read())
                    for member in tar
                    if member.isreg()
                )
        except tarfile.TarError as error:
            raise DataError(
                f"{archive} cannot be read ({error}); remove it and run again"
            ) from None
        finally:
            process.stdout.close()


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
