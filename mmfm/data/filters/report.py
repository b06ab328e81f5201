"""What a filtering has to say: each filter's account, and what the samples that stay are like."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mmfm.data.filters.manifest import Census


@dataclass
class Account:
    """What one filter did. captions: how many it took out of samples that stay."""

    name: str
    settings: dict[str, Any]
    before: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    captions: int = 0

    @property
    def dropped(self) -> int:
        return self.reasons.total()

    def facts(self) -> dict[str, Any]:
        return {
            "filter": self.name,
            "settings": self.settings,
            "before": self.before,
            "dropped": self.dropped,
            "after": self.before - self.dropped,
            "reasons": dict(self.reasons.most_common()),
            "captions_removed": self.captions,
        }


@dataclass
class Report:
    """What became of a set: `found` samples, `kept` of them, and why the others went."""

    found: int
    kept: int
    accounts: list[Account]
    licences_before: Counter[str]
    census: Census
    warnings: list[str]

    def facts(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "samples": {"found": self.found, "kept": self.kept},
            "filters": [account.facts() for account in self.accounts],
            "licences": {
                "before": dict(self.licences_before.most_common()),
                "after": dict(self.census.licences.most_common()),
            },
            "captions": self.census.captions(),
            "warnings": self.warnings,
        }
