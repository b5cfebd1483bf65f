"""The stages as one run sees them: what is stale, what it has to make, what it has made.

DVC says what is stale; it is asked again only after something was made, for each answer takes the
better part of a second.
"""

from collections.abc import Iterable

from flows.selection import Selection
from tasks import pipeline
from tasks.config import PARAMS_FILE, Params, load_params
from tasks.errors import ParamsError
from tasks.staleness import is_restorable, stale_stages


class Stages:
    """One run's view of dvc.yaml; `params` is what the run makes its stages with."""

    def __init__(self, params: Params, selection: Selection) -> None:
        self._params = params
        self._selection = selection
        self._code = pipeline.code_sums()
        self._stale: dict[str, str] | None = None

    def stale(self) -> dict[str, str]:
        """The stages to be run now, in the order of the DAG, each with its reason."""
        if self._stale is None:
            self._stale = stale_stages()
        return self._stale

    def ask_again(self) -> None:
        """Forget what DVC said: time has passed, or something was made."""
        self._stale = None

    def stale_of(self, kinds: Iterable[str]) -> list[str]:
        """The stale stages of some kinds, but for those that DVC has just restored."""
        return [
            stage
            for stage in list(self.stale())
            if stage.partition("@")[0] in kinds and not self._restore(stage)
        ]

    def to_make(self, kinds: Iterable[str]) -> list[str]:
        """The stages of some kinds that this run has to make."""
        if self._selection.force:
            stages = [each for each in pipeline.stage_names() if each.partition("@")[0] in kinds]
        else:
            stages = self.stale_of(kinds)
        return [stage for stage in stages if self._selection.takes(stage)]

    def record(self, stage: str) -> None:
        """Let DVC record a stage, but never under parameters or code that it was not made with.

        Raises:
            ParamsError: params.yaml or the stage's code changed.
            StoreError: an output is missing, or DVC cannot write its cache.
        """
        if load_params() != self._params:
            raise ParamsError(
                f"{PARAMS_FILE} changed during the run; {stage} is not recorded:"
                " run again to make what it asks for now"
            )
        self.ask_again()
        pipeline.record(stage, self._code)

    def _restore(self, stage: str) -> bool:
        if not is_restorable(stage) or not pipeline.restore(stage):
            return False
        self.ask_again()
        return True
