"""One search in a new process: `mmfm search` on a ready index against open_clip and faiss.

User CPU seconds of the whole process, so mostly imports and loading. The peer finds the same hits
with the same weights in the same vectors; a second one imports the two libraries and does nothing;
a third answers a vector with faiss alone. Without --model a model of ViT-B/32's size with random
weights follows. open_clip imports transformers where it is installed, for more than a second;
mmfm does not need it, so it is hidden from the peers. The first, unmeasured search reads all
weights once to know their hash; the next ones remember it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import Options, interleave, options, report, versions

TEXT = "a red apple"
K = 10
TOLERANCE = 1e-4  # of a score
ROUNDS = 3  # at most, since one takes a quarter of a minute
KINDS = {"words": "words", "picture": "an indexed picture", "vector": "a vector"}
AGAINST = {
    "script": "open_clip and faiss",
    "bare": "importing open_clip and faiss",
    "faiss": "faiss alone",
}
CASES = (("words", "bare"), ("picture", "script"), ("vector", "bare"), ("vector", "faiss"))
REAL_SIZE = "open_clip:ViT-B-32/random"
PEERS = ("open_clip_torch", "faiss-cpu", "torch")
HIDE = "import sys; sys.modules['transformers'] = None\n"

IMPORT = HIDE + "import faiss, open_clip"

SCRIPT = """
import json
import faiss, numpy as np
vectors, paths, kind, query, k = sys.argv[1:6]
if kind == "vector":
    query = np.load(query)[None]
else:
    import open_clip, torch
    torch.set_num_threads(1)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{sys.argv[6]}")
    model.eval()
    with torch.inference_mode():
        if kind == "words":
            tokenizer = open_clip.get_tokenizer(f"local-dir:{sys.argv[6]}")
            query = model.encode_text(tokenizer([query]), normalize=True).numpy()
        else:
            from PIL import Image
            image = Image.open(query)
            if image.mode in ("RGBA", "LA", "P"):
                image = image.convert("RGBA")
                ground = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(ground, image)
            pixels = preprocess(image.convert("RGB"))[None]
            query = model.encode_image(pixels, normalize=True).numpy()
scores, rows = faiss.read_index(vectors).search(query, int(k))
paths = json.load(open(paths))
hits = zip(rows[0].tolist(), scores[0].tolist())
print(json.dumps([{"path": paths[row], "score": score} for row, score in hits]))
"""


def run(*command: str) -> Any:
    """Run a command to its end and read the JSON on its stdout; its stderr is shown if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stderr}")
    return json.loads(done.stdout or "null")


def children_seconds() -> float:
    """User CPU seconds of all processes started here that have ended."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime


def difference(ours: list[dict], theirs: list[dict]) -> float:
    """The largest difference of two rankings in score: rank by rank, and picture by picture.

    A picture that only one of them has is measured against the last place it missed, so that two
    pictures of nearly the same score may change places.
    """
    if len(ours) != len(theirs):
        return float("inf")
    a, b = ({hit["path"]: hit["score"] for hit in hits} for hits in (ours, theirs))
    gaps = [abs(x["score"] - y["score"]) for x, y in zip(ours, theirs)]
    gaps += [abs(a[path] - b[path]) for path in a.keys() & b.keys()]
    gaps += [abs({**a, **b}[path] - min(a.values())) for path in a.keys() ^ b.keys()]
    return max(gaps)


class Desk:
    """A ready index of the gallery, the same vectors for faiss, and the calls on both sides."""

    def __init__(self, place: Path, model: Any, folder: Path) -> None:
        import faiss

        import mmfm
        from mmfm.cli import gallery

        self.folder, self.place = folder, place
        index = mmfm.Index.build(model, gallery.FOLDER, place / "index", precision="fp32")
        self.count, self.picture = len(index), index.paths[7]
        np.save(place / "query.npy", index.vectors[7])
        flat = faiss.IndexFlatIP(index.dim)
        flat.add(np.ascontiguousarray(index.vectors))
        faiss.write_index(flat, str(place / "vectors.faiss"))
        (place / "paths.json").write_text(json.dumps(index.paths))

    def ours(self, kind: str) -> list[dict]:
        asked = {
            "words": [TEXT],
            "picture": ["--image", self.picture],
            "vector": ["--vector", str(self.place / "query.npy")],
        }[kind]
        return run(
            sys.executable, "-m", "mmfm", "search", str(self.place / "index"), *asked, "-k",
            str(K), "--json", "--device", "cpu", "--model", str(self.folder),
        )  # fmt: skip

    def script(self, kind: str) -> list[dict]:
        query = {"words": TEXT, "picture": self.picture, "vector": str(self.place / "query.npy")}
        return run(
            sys.executable, "-c", HIDE + SCRIPT, str(self.place / "vectors.faiss"),
            str(self.place / "paths.json"), kind, query[kind], str(K), str(self.folder),
        )  # fmt: skip

    def bare(self) -> None:
        run(sys.executable, "-c", IMPORT)


def measure(desk: Desk, name: str, kind: str, peer: str, rounds: int) -> None:
    """One case; peer: "script", "bare", or "faiss" for the script where it needs nothing else."""
    asked, against, answer = KINDS[kind], AGAINST[peer], lambda: desk.script(kind)
    measured = interleave(
        lambda: desk.ours(kind), desk.bare if peer == "bare" else answer, min(rounds, ROUNDS),
        clock=children_seconds,
    )  # fmt: skip
    gap = difference(measured.our_output, measured.peer_output or answer())
    report(
        "cold_start", f"{name}, {asked} in {desk.count} drawings, against {against}", measured,
        amount=1, unit="searches", gate={"score_difference": round(gap, 8)},
        equal=gap <= TOLERANCE, peer_version=versions(*PEERS),
    )  # fmt: skip


@contextmanager
def own_cache() -> Iterator[Path]:
    """A folder that goes afterwards, in which the processes started here also remember hashes."""
    with TemporaryDirectory() as name:
        os.environ["MMFM_CACHE"] = f"{name}/cache"
        yield Path(name)


def main(given: Options) -> None:
    import mmfm

    with own_cache() as place:
        (place / "given").mkdir()
        model = mmfm.load(given.folder, device="cpu")
        desk = Desk(place / "given", model, given.folder)
        for kind, peer in CASES:
            measure(desk, model.name, kind, peer, given.rounds)
        if given.model == "mini":
            (place / "real").mkdir()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that random weights mean nothing
                model = mmfm.load(REAL_SIZE, device="cpu")
            folder = model.save_pretrained(place / "real" / "model")
            desk = Desk(place / "real", model, folder)
            del model
            measure(desk, "ViT-B-32's size", "words", "script", given.rounds)


if __name__ == "__main__":
    main(options(__doc__))
