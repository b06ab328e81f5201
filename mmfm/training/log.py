"""What a run says: JSON lines always, TensorBoard when it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


class Log:
    """Scalars to `folder/log.jsonl`, pictures to `folder/samples/`, both to TensorBoard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "log.jsonl").open("a", encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self._board = None
        else:
            self._board = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """One JSON line `{"step": step, ...}`; numbers also become TensorBoard curves."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """A sample sheet as `samples/NAME-STEP.png`."""
        path = self.folder / "samples" / f"{name}-{step:07d}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        if self._board is not None:
            import numpy as np

            self._board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._lines.close()
        if self._board is not None:
            self._board.close()
