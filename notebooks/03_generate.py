# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Generate pictures
# Words in, small drawings out. `mini` knows emoji and icons, not photographs; many prompts fail,
# and nothing below was picked by hand. `pictures` is the folder that the drawings are compared with
# at the end: put your own there.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import mmfm
from mmfm.cli.sheet import contact_sheet

pictures = Path(mmfm.__file__).parent / "gallery"
model = mmfm.load("mini")

# %% [markdown]
# ## One picture
# The same seed gives the same picture, up to rounding, whatever else is drawn with it.

# %%
[apple] = model.generate("a red apple", seed=0)
[again, _] = model.generate("a red apple", seed=0, num_images=2)
gap = np.abs(np.asarray(apple, int) - np.asarray(again, int)).max()
print(f"{apple.width} x {apple.height} pixels; the second differs by {gap} of 255 at most")
apple.save("apple.png")
apple.resize((256, 256), Image.Resampling.LANCZOS)

# %%
contact_sheet(model.generate("a red apple", num_images=8, seed=1), columns=8)

# %% [markdown]
# ## Steps and guidance
# More steps cost more time; more guidance follows the words more closely, at the price of variety.

# %%
steps = (2, 5, 10, 25)
images = [model.generate("yellow smiling face", num_steps=n, seed=2)[0] for n in steps]
scales = (1.0, 2.0, 3.0, 6.0)
images += [model.generate("yellow smiling face", guidance_scale=g, seed=2)[0] for g in scales]
contact_sheet(images, [f"{n} steps" for n in steps] + [f"guidance {g}" for g in scales], 4)

# %% [markdown]
# ## A choice
# A negative prompt is moved away from. `rerank=6` draws six and keeps the one that the model itself
# finds nearest to the words.

# %%
plain = model.generate("heart", num_images=4, seed=3)
other = model.generate("heart", num_images=4, seed=3, negative_prompt="red heart")
best = model.generate("heart", num_images=4, seed=3, rerank=6)
contact_sheet(plain + other + best, ["plain"] * 4 + ["not red"] * 4 + ["best of six"] * 4, 4)

# %% [markdown]
# ## And back
# The same weights say what they have drawn, and find the nearest picture of the folder with it.

# %%
prompts = ["a red apple", "tree", "flag of France", "dog face", "sun", "blue car"]
made = model.generate(prompts, seed=4)
index = mmfm.Index.build(model, pictures)
found = [index.search(image, k=1)[0].path for image in made]
labels = [f"says: {text}" for text in model.caption(made)] + [Path(path).stem for path in found]
contact_sheet(made + [Image.open(path) for path in found], labels, columns=len(made))

# %%
cosines = model.embed_images(made) @ model.embed_texts(prompts).T
for prompt, row in zip(prompts, cosines):
    print(f"drawn from {prompt!r}, nearest to {prompts[row.argmax()]!r} ({row.max():.2f})")
