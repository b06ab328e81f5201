"""A tiny copy of the public sources, made by hand and read by the real functions."""

import io
import tarfile

EMOJI = [
    {"label": "red apple", "hexcode": "1F34E", "tags": ["apple", "fruit", "g2g"], "group": 4},
    {"label": "flag: France", "hexcode": "1F1EB-1F1F7", "tags": ["FR", "flag"], "group": 9},
    {"label": "man: red hair", "hexcode": "1F468-200D-1F9B0", "group": 1},
    {"label": "man: bald", "hexcode": "1F468-200D-1F9B2", "group": 1},
    {"label": "watch", "hexcode": "231A-FE0F", "tags": ["clock", "time"], "group": 5},
    {
        "label": "waving hand",
        "hexcode": "1F44B",
        "tags": ["bye", "wave"],
        "group": 1,
        "skins": [
            {"label": "waving hand: medium-light skin tone", "hexcode": "1F44B-1F3FC", "tone": 2}
        ],
    },
    {
        "label": "kiss: woman, man",
        "hexcode": "1F48F",
        "group": 1,
        "skins": [
            {
                "label": "kiss: woman, man, medium skin tone, dark skin tone",
                "hexcode": "1F48F-1F3FD-1F3FF",
            }
        ],
    },
    {"label": "dark skin tone", "hexcode": "1F3FF", "group": 2},
]
GROUPS = {
    "1": "people-body",
    "2": "component",
    "4": "food-drink",
    "5": "travel-places",
    "9": "flags",
}


def icon_set(prefix: str, icons: dict[str, str], spdx: str = "MIT", **more) -> dict:
    return {
        "prefix": prefix,
        "info": {
            "author": {"name": "A. Hand", "url": "https://x.example"},
            "license": {"spdx": spdx},
        },
        "icons": {name: {"body": body} for name, body in icons.items()},
        "width": 16,
        "height": 16,
        **more,
    }


def disc(color: str, radius: int = 7) -> str:
    return f'<circle cx="8" cy="8" r="{radius}" fill="{color}"/>'


def sets() -> list[dict]:
    noto = icon_set(
        "noto",
        {
            "red-apple": disc("#d22"),
            "waving-hand": disc("#fc2"),
            "waving-hand-medium-light-skin-tone": disc("#eb8"),
            "flag-france": '<path fill="#00f" d="M0 4h8v8H0z"/><path fill="red" d="M8 4h8v8H8z"/>',
        },
        "Apache-2.0",
        chars={
            "1f34e": "red-apple",
            "1f44b": "waving-hand",
            "1f44b-1f3fc": "waving-hand-medium-light-skin-tone",
            "1f1eb-1f1f7": "flag-france",
        },
    )
    noto["icons"]["old"] = {"body": disc("#123"), "hidden": True}
    icons = icon_set(
        "flat-ui",
        {
            "book-1": disc("#11a"),
            "book-2": disc("#11b"),  # nearly book-1
            "book-3": '<path fill="#a11" d="M1 1h4v14H1z"/>',
            "copy": disc("#d22"),  # the apple of noto, pixel by pixel
            "ghost": disc("currentColor"),
            "plain": '<path d="M0 0h9v9z"/>',
            "letters": '<text fill="#111">a</text>',
            "shot": '<image href="/etc/hostname"/><path fill="#111" d="M0 0h9v9z"/>',
            "snow": disc("#fff"),  # nothing to see on white
            "company-logo": disc("#0c0"),
            "xx": disc("#0aa"),
        },
    )
    sizes = icon_set(
        "fluent-color", {f"cube-{size}": disc("#93c", size // 4) for size in (16, 20, 24)}
    )
    return [noto, icons, sizes, icon_set("marketeq", {"key": disc("#000")}, "CC-BY-NC-4.0")]


def write_tar(path, files: dict[str, bytes], mode: str) -> None:
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def clip_art(title: str, author: str, *keywords: str, license: str = "PublicDomain") -> bytes:
    """An Open Clip Art document with its words; the pictures lie elsewhere."""
    items = "".join(f"<rdf:li>{keyword}</rdf:li>" for keyword in keywords)
    return f"""<svg><metadata><rdf:RDF><cc:Work rdf:about=""><dc:title>{title}</dc:title>
<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>
<dc:publisher><cc:Agent><dc:title>Open Clip Art Library</dc:title></cc:Agent></dc:publisher>
<dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator>
<cc:license rdf:resource="http://web.resource.org/cc/{license}"/>
</cc:Work></rdf:RDF></metadata></svg>""".encode()


def install_client(folder, name: str, script: str, monkeypatch) -> None:
    """A program of this name as the only one on PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
