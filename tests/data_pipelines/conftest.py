"""Cache folders that hold the hand-made archives of `handmade`."""

import io
import json

import pytest
from PIL import Image, ImageDraw

from tests.data_pipelines.handmade import EMOJI, GROUPS, clip_art, install_client, sets, write_tar


@pytest.fixture
def cache(tmp_path):
    """A cache folder that already holds the npm archives, with a few hand-made icons."""
    folder = tmp_path / "cache"
    folder.mkdir()
    files = {f"package/json/{data['prefix']}.json": json.dumps(data).encode() for data in sets()}
    write_tar(folder / "iconify-json-2.2.535.tgz", files, "w:gz")
    files = {
        "package/en/data.json": json.dumps(EMOJI).encode(),
        "package/meta/groups.json": json.dumps({"groups": GROUPS}).encode(),
    }
    write_tar(folder / "emojibase-data-17.0.0.tgz", files, "w:gz")
    return folder


@pytest.fixture
def clip_art_cache(cache, tmp_path, monkeypatch):
    """`cache` with Open Clip Art packages too; `dpkg-deb` prints the tar that they are here."""
    documents = {
        "food/fruit/apple_jane_doe_01": clip_art("", "Jane Doe", "fruit", "hash 0x1f"),
        "tools/key1": clip_art("Clipart by Nicu Buculei - key 1", "Nicu Buculei", "tool", "tool"),
        "signs_and_symbols/flags/europe/france": clip_art("France", "N. N."),
        "shapes/stars/star_1": clip_art("gramastar", "codifiedivining"),
        "people/uomo_rosso": clip_art("Uomo rosso", "A. B."),
        "people/secret": clip_art("watch", "A. B.", license="GPL"),
        "people/unseen": clip_art("red apple", "A. B."),
    }
    root = "./usr/share/openclipart/"
    svgs = {f"{root}svg/{name}.svg": data for name, data in documents.items()}
    pngs = {}
    for index, name in enumerate(list(documents)[:-1]):
        image = Image.new("RGBA", (20 + 10 * index, 40))
        ImageDraw.Draw(image).rectangle((2, 2, 12, 30), fill=(40 * index, 90, 30))
        stream = io.BytesIO()
        image.save(stream, "PNG")
        pngs[f"{root}png/{name}.png"] = stream.getvalue()
    write_tar(cache / "openclipart-svg_1_all.deb", svgs, "w")
    write_tar(cache / "openclipart-png_1_all.deb", pngs, "w")
    install_client(tmp_path / "bin", "dpkg-deb", 'exec /bin/cat "$2"', monkeypatch)
    return cache
