# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Caption your pictures
# Put your own folder in `pictures`; here it holds the drawings that come with the package, none of
# which `mini` was trained on. `mini` is small and names drawings and emoji, often not quite right;
# of a photograph it will say something, with no ground for it.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import mmfm
from mmfm.cli.sheet import contact_sheet
from mmfm.preprocess.folder import list_images

pictures = Path(mmfm.__file__).parent / "gallery"
model = mmfm.load("mini")
files = list_images(pictures)
some = files[:: max(1, len(files) // 12)][:12]
images = [Image.open(file) for file in some]

# %% [markdown]
# ## One caption each
# The likeliest word after word (greedy): the same every time.

# %%
captions = model.caption(some)
contact_sheet(images, captions, columns=6)

# %% [markdown]
# ## Several captions each, drawn with a seed or found by beams

# %%
drawn = model.caption(some[:4], num_captions=4, top_p=0.9, seed=0)
beams = model.caption(some[:4], num_captions=4, num_beams=4)
for file, by_chance, by_beams in zip(some, drawn, beams):
    print(f"{file.stem}\n  drawn: {by_chance}\n  beams: {by_beams}")

# %% [markdown]
# ## Prompts
# A caption begins with its prompt. These three were learned; the style is how a drawing is made.

# %%
for prompt in ("a drawing of", "style:", "keywords:"):
    print(*model.caption(some[:6], prompt=prompt), "", sep="\n")

# %% [markdown]
# ## From stored vectors
# Vectors that were kept are enough; with the picture itself the captions are usually better.

# %%
np.save("vectors.npy", model.embed_images(some))
recalled = model.caption(embeddings=np.load("vectors.npy"))
contact_sheet(images, recalled, columns=6)

# %% [markdown]
# ## Does this text fit this picture?
# `caption_score` is the mean log probability of the words, given the picture: higher fits better.
# Here it puts what a search found into a new order: above as found, below by score.

# %%
text = "green apple"
hits = mmfm.Index.build(model, pictures).search(text, k=12)
scores = model.caption_score([hit.path for hit in hits], [text] * len(hits))
by_score = [hits[i] for i in np.argsort(-scores)]
order = hits[:6] + by_score[:6]
contact_sheet([Image.open(hit.path) for hit in order], [Path(h.path).stem for h in order], 6)
