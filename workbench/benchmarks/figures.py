"""Figures: samples of what is measured, samples of its baselines, and their ratios. Pure values."""

import statistics
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Samples:
    """Repeated measurements of one thing, at least one, in the unit of their figure."""

    name: str
    values: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """The smallest sample that at least this share of the samples does not exceed (nearest rank)."""
        ordered = sorted(self.values)
        rank = -int(-share * len(ordered) // 1)  # rounded up
        return ordered[max(0, min(len(ordered), rank) - 1)]

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.values)

    def facts(self) -> dict[str, object]:
        """The values as a dictionary, for JSON."""
        return {
            "name": self.name,
            "samples": len(self.values),
            "median": round(self.median, 4),
            "p95": round(self.quantile(0.95), 4),
            "p99": round(self.quantile(0.99), 4),
            "min": round(min(self.values), 4),
            "max": round(max(self.values), 4),
        }


@dataclass(frozen=True)
class Figure:
    """One measured property with its baselines; `better` says whether lower or higher values are better."""

    name: str
    unit: str
    better: Literal["less", "more"]
    ours: Samples
    baselines: tuple[Samples, ...]

    def ratio(self, baseline: Samples) -> float:
        """The median of the figure divided by the baseline's."""
        return self.ours.median / baseline.median if baseline.median else float("inf")

    def facts(self) -> dict[str, object]:
        """The values as a dictionary, for JSON."""
        return {
            "figure": self.name,
            "unit": self.unit,
            "better": self.better,
            **{name: value for name, value in self.ours.facts().items() if name != "name"},
            "baselines": [{**one.facts(), "ratio": round(self.ratio(one), 3)} for one in self.baselines],
        }
