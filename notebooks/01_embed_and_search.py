# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Embed and search your pictures
# Put your own folder in `pictures`; here it is the gallery of the package, drawings that `mini` was
# not trained on. `mini` is small and knows drawings and emoji. On photographs expect little; for
# them `mmfm.load("open_clip:ARCH/TAG")` downloads any published open_clip model.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import mmfm
from mmfm.cli.sheet import contact_sheet
from mmfm.preprocess.folder import list_images

pictures = Path(mmfm.__file__).parent / "gallery"
model = mmfm.load("mini")


def show(hits):
    """Found pictures with their names and cosines; the names are for you, the model sees pixels."""
    labels = [f"{Path(hit.path).stem} {hit.score:.2f}" for hit in hits]
    return contact_sheet([Image.open(hit.path) for hit in hits], labels, columns=6)


# %% [markdown]
# ## Embed: one vector of length 1 for each picture

# %%
files = list_images(pictures)
vectors = model.embed_images(files)
print(f"{len(files)} pictures -> {vectors.shape}, length {np.linalg.norm(vectors[0]):.3f}")

# %%
first = len(files) // 2  # the picture whose nearest neighbours are shown, itself included
nearest = np.argsort(-(vectors @ vectors[first]))[:12]
contact_sheet([Image.open(files[i]) for i in nearest], [files[i].stem for i in nearest], columns=6)

# %% [markdown]
# ## Index: the vectors on disk; building again embeds only what is new or changed

# %%
mmfm.Index.build(model, pictures, "pictures.index")
again = mmfm.Index.build(model, pictures, "pictures.index")
index = mmfm.Index.open("pictures.index", model)
print(f"{index}: {again.report['kept']} kept, {again.report['added']} added the second time")

# %% [markdown]
# ## Search with words, with a picture, with a mix

# %%
show(index.search("heart", k=6))

# %%
show(index.search(image=files[first], k=6))

# %%
show(index.search([("a red apple", 1.0), ("green", 1.0)], minus="red", k=6))

# %% [markdown]
# ## Classify
# Probabilities over labels of your choice: something is always the likeliest, fitting or not.

# %%
labels = ["face", "flag", "animal", "food", "plant", "clock", "vehicle", "clothing"]
some = files[:: max(1, len(files) // 12)][:12]
chances = model.classify(some, labels, templates=["{}", "a drawing of {}"])
answers = [f"{labels[row.argmax()]} {row.max():.0%}" for row in chances]
contact_sheet([Image.open(file) for file in some], answers, columns=6)
