"""Which part of params.yaml one run makes: all of it, or some architectures or scales."""

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.config import Cell, Params
from tasks.errors import ParamsError
from tasks.layout import result_name

TRAIN_STAGES = ("train", "train_joint")
EVALUATE_STAGES = ("evaluate", "evaluate_joint", "evaluate_interpolation")


@dataclass(frozen=True)
class Selection:
    """`architectures` and `scales` of None mean all; `force` makes again what is up to date."""

    architectures: tuple[str, ...] | None = None
    scales: tuple[int, ...] | None = None
    force: bool = False

    def check(self, params: Params) -> None:
        """Refuse what params.yaml does not have.

        Raises:
            ParamsError: an architecture or a scale that it does not list.
        """
        for name in self.architectures or ():
            if name not in params.architectures:
                known = ", ".join(params.architectures)
                raise ParamsError(f"architecture {name!r} is not in params.yaml; it has: {known}")
        for scale in self.scales or ():
            if scale not in params.scales:
                raise ParamsError(f"scale {scale} is not in params.yaml: {list(params.scales)}")

    def takes(self, stage: str) -> bool:
        """Whether this run makes a stage; data and tables belong to every run."""
        kind, _, item = stage.partition("@")
        if kind not in (*TRAIN_STAGES, *EVALUATE_STAGES):
            return True
        architecture, scale = split(item)
        return (self.architectures is None or architecture in self.architectures) and (
            self.scales is None or scale is None or scale in self.scales
        )

    def left_out(self, stale: Iterable[str]) -> set[str]:
        """What those stale stages make and this run does not, by `made_by`."""
        return {made_by(stage) for stage in stale if not self.takes(stage)}


def made_by(stage: str) -> str:
    """A training or a row of the tables: `vdsr`, trained for all scales, or `srcnn-x2`."""
    architecture, scale = split(stage.partition("@")[2])
    return architecture if scale is None else result_name(architecture, scale)


def split(item: str) -> tuple[str, int | None]:
    """`srcnn-2` is srcnn at ×2; `vdsr`, a joint training, has all scales."""
    architecture, _, scale = item.rpartition("-")
    return (architecture, int(scale)) if architecture else (item, None)


def cell_of(params: Params, stage: str) -> Cell | None:
    """The training that a stage is, or measures; none for an interpolation."""
    architecture, scale = split(stage.partition("@")[2])
    return params.cell_for(architecture, params.scales[0] if scale is None else scale)
