# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tune on your own pictures
# One call adapts search, captions and generation to a folder. Here the folder is made up: drawings
# of the package as white lines on blue, a style that `mini` has never seen. Put your own folder in
# its place: pictures with a `.txt` beside each, a `captions.csv`, sub-folders as names, shards.

# %%
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

import mmfm
from mmfm.cli.sheet import contact_sheet

gallery = Path(mmfm.__file__).parent / "gallery"
pictures = Path("blueprints")
pictures.mkdir(exist_ok=True)
rows = [json.loads(line) for line in (gallery / "captions.jsonl").read_text().splitlines()][:48]
for row in rows:
    grey = Image.open(gallery / row["file_name"]).convert("L").filter(ImageFilter.FIND_EDGES)
    drawn = ImageOps.colorize(ImageOps.autocontrast(grey), (25, 60, 140), "white")
    drawn.save(pictures / row["file_name"])
    (pictures / row["file_name"]).with_suffix(".txt").write_text(f"blueprint of {row['text']}")
contact_sheet([Image.open(p) for p in sorted(pictures.glob("*.png"))[:16]], columns=8)

# %% [markdown]
# ## One call
# It reads, splits off a hold-out, trains and measures. Few steps, so that this page is quick; leave
# `steps` out and it chooses. `mmfm finetune blueprints -o tuned` is the same on the command line.

# %%
report = mmfm.finetune("mini", images=pictures, output="tuned", steps=12)
print("\n".join(report.lines()))

# %% [markdown]
# `tuned/report.html` shows all of it: figures before and after on the hold-out and on what the
# model could do before, pictures, curves, and the command to repeat it.

# %%
base, tuned = mmfm.load("mini"), mmfm.load("tuned")
shown = sorted(pictures.glob("*.png"))[:4]
for before, after in zip(base.caption(shown), tuned.caption(shown), strict=True):
    print(f"{before!r} -> {after!r}")

# %%
Image.open(shown[0]).resize((192, 192), Image.Resampling.NEAREST)

# %%
prompts = ["blueprint of an apple", "blueprint of a house", "a red apple"]
images = [model.generate(p, seed=0)[0] for model in (base, tuned) for p in prompts]
contact_sheet(images, [*(f"before: {p}" for p in prompts), *(f"after: {p}" for p in prompts)], 3)

# %% [markdown]
# Vectors of the tuned towers are others than before: an index of `mini` has to be built again, and
# says so.

# %%
old, new = base.embed_images(shown), tuned.embed_images(shown)
print(np.round((old * new).sum(axis=1), 3))
