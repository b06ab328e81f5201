"""A folder of 10,000 mixed pictures, 5% damaged: indexed, killed, resumed, searched, changed.

What must hold is checked: no readable picture is lost, each damaged file is named, interrupted work
is gone on with, the former index can be searched meanwhile. The ratio is that of indexing a part of
the folder against a loop of Pillow and open_clip over the same files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import _pictures, interleave, options, report

BATCH_SIZE = 64
SAMPLE = 300  # pictures of both sides of the ratio, and searched for
COSINE = 0.9999
PATIENCE = 600  # seconds until something has to happen


class Folder:
    """The pictures, and what an index of them has to say."""

    def __init__(self, place: Path, count: int) -> None:
        self.place = place
        self.rng = random.Random(0)
        self.names: dict[int, str] = {}
        self.damaged: set[int] = set()
        for number in range(count):
            self.write(number, number % 20 == 7)
        self.next = count

    def write(self, number: int, is_damaged: bool, content: int | None = None) -> None:
        ways = list(_pictures.DAMAGE)
        damage = ways[number // 20 % len(ways)] if is_damaged else None
        name = _pictures.write(self.place, number if content is None else content, damage=damage)
        if content is not None:
            os.replace(self.place / name, self.place / self.names[number])
        else:
            self.names[number] = name
        (self.damaged.add if is_damaged else self.damaged.discard)(number)

    @property
    def good(self) -> list[int]:
        return sorted(self.names.keys() - self.damaged)

    def paths(self, numbers: Any) -> list[str]:
        return sorted(self.names[number] for number in numbers)

    def change(self) -> dict[str, int]:
        """Some pictures are replaced, damaged, mended, removed, renamed, and some are new."""
        some = max(2, len(self.names) // 100)
        chosen = self.rng.sample(self.good, 4 * some)
        replaced, spoilt, removed, renamed = (chosen[i * some : (i + 1) * some] for i in range(4))
        mended = self.rng.sample(sorted(self.damaged), some)
        kinds = len(_pictures.KINDS)
        for number in replaced:
            self.write(number, False, content=number + 1_000_000 * kinds)
        for number in spoilt:
            self.write(number, True)
        for number in mended:
            self.write(number, False)
        for number in removed:
            (self.place / self.names.pop(number)).unlink()
        for number in renamed:
            name = f"renamed/{Path(self.names[number]).name}"
            (self.place / name).parent.mkdir(exist_ok=True)
            os.replace(self.place / self.names[number], self.place / name)
            self.names[number] = name
        for number in range(self.next, self.next + some):
            self.write(number, False)
        # a renamed picture is a new path whose vector is known; spoilt, removed, renamed are gone
        return {"added": 3 * some, "changed": some, "removed": 3 * some}


class Indexing:
    """`mmfm index` in a process of its own."""

    def __init__(self, model: Path, folder: Path, index: Path) -> None:
        self.command = [
            sys.executable, "-m", "mmfm", "index", str(folder), "-o", str(index), "--json",
            "--device", "cpu", "--precision", "fp32", "--model", str(model),
        ]  # fmt: skip
        self.index = index
        self.peak = 0  # bytes, of the largest run so far

    def run(self) -> dict[str, Any]:
        with TemporaryDirectory() as name:
            out, errors = Path(name, "out"), Path(name, "err")
            with open(out, "wb") as told, open(errors, "wb") as said:
                process = subprocess.Popen(self.command, stdout=told, stderr=said)
                _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                sys.exit(f"mmfm index failed:\n{errors.read_text()}")
            self.peak = max(self.peak, 1024 * usage.ru_maxrss)
            return json.loads(out.read_text())

    def run_and_kill(self, rows: int) -> int:
        """SIGKILL as soon as so many rows are safe; returns how many were, 0 if it ended before."""
        quiet = subprocess.DEVNULL
        with subprocess.Popen(self.command, stdout=quiet, stderr=quiet) as process:
            until = time.monotonic() + PATIENCE
            while self._done() < rows and process.poll() is None:
                if time.monotonic() > until:
                    process.kill()
                    sys.exit(f"mmfm index did not come to {rows} rows in {PATIENCE} seconds")
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        return self._done()

    @property
    def state(self) -> bytes:
        """What the index is, as searches see it."""
        return (self.index / "index.json").read_bytes()

    def _done(self) -> int:
        try:
            return json.loads((self.index / "draft.json").read_bytes())["about"]["num_new"]
        except (OSError, KeyError, ValueError):
            return 0


def faults(folder: Folder, index: Path, told: dict[str, Any], model: Any) -> dict[str, int]:
    """How often the index is not what the folder says: all of them must be 0."""
    from mmfm.index import Index

    opened = Index.open(index)
    good, damaged = folder.paths(folder.good), folder.paths(folder.damaged)
    there = opened.engine.ids()
    named = [entry["path"] for entry in told["skipped"]]
    chosen = folder.paths(random.Random(1).sample(folder.good, min(SAMPLE, len(good))))
    files = [folder.place / path for path in chosen]
    vectors = model.embed_images(files, batch_size=BATCH_SIZE, precision="fp32")
    found = opened.search_many(vectors, 1)
    known = opened.search_many(files, 1)  # by the bytes of the files, without the model
    self_found = [hits[0].score < COSINE for hits in (*found, *known)]
    stored = opened.engine.vectors(chosen)
    return {
        "lost": len(set(good) - set(there)),
        "strangers": len(set(there) - set(good)),
        "unnamed": len(set(damaged) - set(named)),
        "wrongly_named": len(set(named) - set(damaged)),
        "not_kept_in_the_index": len(set(damaged) ^ {path for path, _ in opened.unreadable}),
        "not_found": sum(self_found),
        "wrong_vectors": int((np.einsum("nd,nd->n", stored, vectors) < COSINE).sum()),
    }


class Peer:
    """The loop that people write: Pillow, open_clip, and whatever fails is left out."""

    def __init__(self, folder: Path) -> None:
        import open_clip

        model, _, self.transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.model = model.eval()

    def embed(self, files: list[Path]) -> np.ndarray:
        import torch
        from PIL import Image

        vectors = []
        with torch.inference_mode():
            for start in range(0, len(files), BATCH_SIZE):
                images = []
                for file in files[start : start + BATCH_SIZE]:
                    try:
                        images.append(self.transform(Image.open(file)))
                    except Exception:
                        continue
                vectors.append(self.model.encode_image(torch.stack(images), normalize=True))
        return torch.cat(vectors).numpy()


def scenario(folder: Folder, index: Path, model: Any, bundle: Path) -> dict[str, int]:
    """What was counted on the way; the sum of "faults" must be 0."""
    indexing = Indexing(bundle, folder.place, index)
    total = len(folder.names)
    done = indexing.run_and_kill(total // 3)
    told = indexing.run()
    wrong = faults(folder, index, told, model)
    wrong["work_done_again"] = int(told["resumed"] < done)
    wanted = folder.change()
    from mmfm.index import Index

    former, before = indexing.state, Index.open(index).engine.ids()
    # why not the draft alone: the kill may come after the new state was published
    was_killed = indexing.run_and_kill(1) > 0 and indexing.state == former
    lost = set(before) ^ set(Index.open(index).engine.ids())
    wrong["former_lost"] = len(lost) if was_killed else 0
    again = indexing.run()
    for name, count in faults(folder, index, again, model).items():
        wrong[name] += count
    last = indexing.run()
    wrong["not_settled"] = last["added"] + last["changed"] + last["removed"]
    counted = sum(again[name] for name in ("added", "changed")) + again["resumed"]
    missed = max(0, wanted["added"] + wanted["changed"] - counted)
    wrong["changes_missed"] = missed if was_killed else 0
    return {
        "pictures": total, "damaged": len(folder.damaged), "killed_after": done,
        "resumed": told["resumed"], "indexed": len(Index.open(index)),
        "peak_mib": round(indexing.peak / 2**20), **wrong, "faults": sum(wrong.values()),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--pictures", type=int, default=10_000)
    ours, rest = parser.parse_known_args()
    sys.argv[1:] = rest if "--rounds" in " ".join(rest) else [*rest, "--rounds", "3"]
    given = options(f"{__doc__} --pictures N: so many (default: 10000).")

    import torch

    import mmfm
    from mmfm.index import Index

    torch.set_num_threads(1)
    model, peer = mmfm.load(given.folder, device="cpu"), Peer(given.folder)
    with TemporaryDirectory() as name:
        folder = Folder(Path(name, "pictures"), ours.pictures)
        plain = Path(name, "plain")
        sample = [n for n in sorted(folder.names) if n % len(_pictures.KINDS) in (0, 5)][:SAMPLE]
        for number in sample:
            path = plain / Path(folder.names[number]).name
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(folder.place / folder.names[number])
        files = sorted(plain.iterdir())
        measured = interleave(
            lambda: Index.build(model, plain, batch_size=BATCH_SIZE, precision="fp32").vectors,
            lambda: peer.embed(files),
            given.rounds,
        )
        cosine = float((measured.our_output * measured.peer_output).sum(axis=1).min())
        gate = scenario(folder, Path(name, "index"), model, given.folder)
        report(
            "folder_of_pictures", f"{model.name}, index of a folder", measured, amount=len(files),
            unit="files", gate={"cosine": round(cosine, 6), **gate},
            equal=cosine >= COSINE and gate["faults"] == 0,
        )  # fmt: skip


if __name__ == "__main__":
    main()
