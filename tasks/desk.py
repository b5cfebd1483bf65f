"""Who trains what: cells wait here, lanes of workers fetch them one after the other.

Pure bookkeeping, so that it can be tested without a cluster. A lane that asks
again while it holds a cell has lost its worker; it gets the same cell again,
which resumes from its checkpoint, until that has happened too often.
"""

from collections import deque
from dataclasses import dataclass

from tasks.exchange import Job
from tasks.train import Progress

# A cell whose worker died this often is given up; the others go on.
MAX_ATTEMPTS = 10


@dataclass(frozen=True)
class Done:
    """A cell ended: trained if there is no `reason`, else failed."""

    cell: str
    reason: str | None = None


@dataclass(frozen=True)
class Warned:
    """Something went wrong that does not end the cell."""

    cell: str
    text: str


@dataclass(frozen=True)
class Placed:
    """A lane's workers have started, in the resources of this placement group."""

    lane: str
    group: str


Event = Progress | Done | Warned | Placed


class Desk:
    """Jobs in the order in which they are handed out, and what is known of each."""

    def __init__(self, jobs: list[Job]) -> None:
        self._waiting = deque(jobs)
        self._held: dict[str, Job] = {}
        self._attempts: dict[str, int] = {}
        self._events: list[Event] = []

    def next(self, lane: str, takes_large: bool, takes_small: bool) -> Job | None:
        """The lane's next job; None if there is none left for it."""
        held = self._held.get(lane)
        if held is not None:
            if self._attempts[held.name] < MAX_ATTEMPTS:
                self._warn(held, f"its worker died; attempt {self._attempts[held.name] + 1}")
                return self._hand_out(lane, held)
            reason = f"{held.cell}: its worker died {MAX_ATTEMPTS} times; out of memory?"
            self.end(lane, held.cell, reason)
        for job in self._waiting:
            if takes_large if job.is_large else takes_small:
                self._waiting.remove(job)
                return self._hand_out(lane, job)
        return None

    def report(self, event: Progress | Warned | Placed) -> None:
        """What a worker has to say."""
        self._events.append(event)

    def end(self, lane: str, cell: str, reason: str | None) -> None:
        """The lane's cell ended; with a reason, it failed. Of several workers the first counts."""
        held = self._held.get(lane)
        if held is not None and held.cell == cell:
            del self._held[lane]
            self._events.append(Done(cell, reason))

    def lose(self, lane: str) -> None:
        """The lane will never ask again: what it held goes back to the others."""
        held = self._held.pop(lane, None)
        if held is not None:
            self._warn(held, "its workers are gone; another lane takes it")
            self._waiting.appendleft(held)

    def events(self) -> list[Event]:
        """What happened since the last call."""
        happened, self._events = self._events, []
        return happened

    def _hand_out(self, lane: str, job: Job) -> Job:
        self._held[lane] = job
        self._attempts[job.name] = self._attempts.get(job.name, 0) + 1
        return job

    def _warn(self, job: Job, text: str) -> None:
        self._events.append(Warned(job.cell, f"{job.cell}: {text}"))
