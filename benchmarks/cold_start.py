"""One search in a new process: `mmfm search` against a short script with open_clip and numpy.

Both find the same words in the same ready vectors; what is measured is mostly imports and loading.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks import Options, interleave, options, report

TEXT = "a red apple"
K = 10
TOLERANCE = 1e-4  # of a score

PEER = """
import json, sys
import numpy as np, open_clip, torch
folder, vectors, paths, text, k = sys.argv[1:]
torch.set_num_threads(1)
model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
model.eval()
tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
with torch.inference_mode():
    query = model.encode_text(tokenizer([text]), normalize=True)[0].numpy()
scores = np.load(vectors) @ query
paths = json.load(open(paths))
best = np.argsort(-scores)[: int(k)]
print(json.dumps([{"path": paths[row], "score": float(scores[row])} for row in best]))
"""


def run(*command: str) -> list[dict]:
    """Run a command to its end and read the JSON on its stdout; its stderr is shown if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stderr}")
    return json.loads(done.stdout)


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


def main(given: Options) -> None:
    import mmfm
    from mmfm.cli import gallery

    with TemporaryDirectory() as name:
        place = Path(name)
        model = mmfm.load(given.folder, device="cpu")
        index = mmfm.Index.build(model, gallery.FOLDER, place / "index")
        np.save(place / "vectors.npy", index.vectors)
        (place / "paths.json").write_text(json.dumps(index.paths))
        search = [
            sys.executable, "-m", "mmfm", "search", str(place / "index"), TEXT, "-k", str(K),
            "--json", "--device", "cpu", "--model", str(given.folder),
        ]  # fmt: skip
        script = [
            sys.executable, "-c", PEER, str(given.folder), str(place / "vectors.npy"),
            str(place / "paths.json"), TEXT, str(K),
        ]  # fmt: skip
        measured = interleave(
            lambda: run(*search), lambda: run(*script), given.rounds, clock=children_seconds
        )
    gap = difference(measured.our_output, measured.peer_output)
    report(
        "cold_start", f"{model.name}, one search in {len(index)} drawings", measured, amount=1,
        unit="searches", gate={"score_difference": round(gap, 8)}, equal=gap <= TOLERANCE,
    )  # fmt: skip


if __name__ == "__main__":
    main(options(__doc__))
