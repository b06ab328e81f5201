"""How well picture and caption fit, by a model that is not known here: it comes as a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmfm.data.filters.filter import Drop, SetFilter
from mmfm.errors import DataError

Scores = Callable[[np.ndarray], np.ndarray]  # rows (n,) -> (n,) float32; NaN: cannot be scored


class ScoreFilter(SetFilter):
    """Keeps samples whose score is high, or the best share of them, or both.

    A share is of the samples that come this far, so filtering what was kept keeps less again.
    """

    name = "score"

    def __init__(
        self,
        scores: Scores,
        model: dict[str, Any],
        *,
        minimum: float | None = None,
        keep: float | None = None,
    ) -> None:
        """minimum: the least cosine, -1 to 1. keep: the share kept, above 0 up to 1.

        scores: asked once, with all rows still in. model: what made them, for the manifest.
        Raises DataError for other values.
        """
        if minimum is not None and not -1 <= minimum <= 1:
            raise DataError(f"the least score is {minimum}; wanted a cosine from -1 to 1")
        if keep is not None and not 0 < keep <= 1:
            raise DataError(f"the share to keep is {keep}; wanted above 0, up to 1")
        self.scores, self.model, self.minimum, self.keep = scores, model, minimum, keep

    def settings(self) -> dict[str, Any]:
        return {"minimum": self.minimum, "keep": self.keep, **self.model}

    def judge_all(self, rows: np.ndarray) -> Iterator[tuple[int, Drop]]:
        scores = self.scores(rows)
        place = np.empty(len(rows), np.int64)  # 0 is the best; of equals the earlier
        place[np.argsort(-scores, kind="stable")] = np.arange(len(rows))  # NaN comes last
        scored = len(rows) - int(np.isnan(scores).sum())
        allowed = scored if self.keep is None else math.ceil(self.keep * scored)
        for row, score, rank in zip(rows.tolist(), scores.tolist(), place.tolist()):
            if math.isnan(score):
                yield row, Drop("nothing-to-score")
            elif self.minimum is not None and score < self.minimum:
                yield row, Drop("low-score", round(score, 4))
            elif rank >= allowed:
                yield row, Drop("not-among-the-best", round(score, 4))
