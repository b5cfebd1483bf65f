"""What a table says in one line: what is best, by how much, at what cost."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.crops import BASELINE
from tasks.row_status import measured_rows

Row = dict[Any, Any]
_MACHINE = ("timed_device", "timed_num_threads", "timed_precision")


@dataclass(frozen=True)
class Headline:
    """The best row of one data set at one scale.

    `gain_db` is over bicubic and `lead_db` over the second best, missing where there is none.
    `latency_ratio` is its time ÷ bicubic's on the same machine.
    """

    dataset: str
    scale: int
    architecture: str
    psnr_db: float
    ssim: float
    gain_db: float | None
    second: str | None
    lead_db: float | None
    latency_ms: float
    latency_ratio: float | None
    num_parameters: int
    num_multiply_adds: int
    train_s: float
    device: str

    @property
    def by_how_much(self) -> str:
        """`+1.18 dB over bicubic, +0.13 dB over cnn_small`."""
        parts = []
        if self.gain_db is not None:
            parts.append(f"{self.gain_db:+.2f} dB over {BASELINE}")
        if self.lead_db is not None and self.second != BASELINE:
            parts.append(f"{self.lead_db:+.2f} dB over {self.second}")
        return ", ".join(parts) or "nothing to compare it with"

    @property
    def at_what_cost(self) -> str:
        """`8,129 parameters, 162 ms per picture (95 × bicubic), 98 s of training on …`."""
        parts = [f"{self.num_parameters:,} parameters", f"{self.latency_ms:,.1f} ms per picture"]
        if self.latency_ratio is not None and self.architecture != BASELINE:
            num_digits = 1 if self.latency_ratio < 100 else 0  # noqa: PLR2004
            parts[-1] += f" ({self.latency_ratio:,.{num_digits}f} × {BASELINE})"
        if self.train_s:
            parts.append(f"{self.train_s:,.0f} s of training on {self.device}")
        return ", ".join(parts)

    def markdown(self) -> str:
        """One item of a list."""
        figures = f"{self.psnr_db:.2f} dB / {self.ssim:.4f}"
        return (
            f"- {self.dataset} ×{self.scale}: **{self.architecture}** is best, {figures}:"
            f" {self.by_how_much}; {self.at_what_cost}"
        )


def headlines(summary: pd.DataFrame) -> list[Headline]:
    """One for each data set and scale that has a measured row, in the table's order."""
    measured = measured_rows(summary)
    groups = measured.groupby(["dataset", "scale"], sort=False)
    return [_headline(rows) for _, rows in groups]


def _headline(rows: pd.DataFrame) -> Headline:
    ranked = rows.sort_values("psnr_db", ascending=False, kind="stable").to_dict("records")
    best, second = ranked[0], ranked[1] if len(ranked) > 1 else None
    bicubic = next((row for row in ranked if row["architecture"] == BASELINE), None)
    others = bicubic if bicubic is not best else None
    return Headline(
        dataset=best["dataset"],
        scale=best["scale"],
        architecture=best["architecture"],
        psnr_db=best["psnr_db"],
        ssim=best["ssim"],
        gain_db=_difference(best, others),
        second=second["architecture"] if second else None,
        lead_db=_difference(best, second),
        latency_ms=best["latency_ms"],
        latency_ratio=_times_as_long(best, bicubic),
        num_parameters=int(best["num_parameters"]),
        num_multiply_adds=int(best["num_multiply_adds"]),
        train_s=best["train_s"],
        device=best["device"],
    )


def _difference(best: Row, other: Row | None) -> float | None:
    """By how many dB; none where both are infinite."""
    if other is None or not math.isfinite(best["psnr_db"] - other["psnr_db"]):
        return None
    return float(best["psnr_db"] - other["psnr_db"])


def _times_as_long(best: Row, other: Row | None) -> float | None:
    """A ratio of times; none where they are of two machines, which cannot be compared."""
    if other is None or any(best.get(name) != other.get(name) for name in _MACHINE):
        return None
    return float(best["latency_ms"] / other["latency_ms"])
