"""When a study is published: pure.

The first version comes at once, the next ones at doubling intervals as long as images keep coming, and the last one
when they have stopped. So the number of versions grows with the logarithm of the time that a study takes, and not with
the number of its images, requests or associations.

A study is *complete* when no image has come for the quiet time, or at once when the modality says that its step is
completed and everything is here that it made. Where it is known how many images there must be and some are missing,
the study waits longer for them, but not for ever: what has come is read.

docs/decisions/0023-publication.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from resources.json import Json

SECOND_US = 1_000_000
FIRST_US = 300_000
"""From the first commit to the first version: a request of a few images is one version."""
LONGEST_US = 30 * SECOND_US
QUIET_S = 5.0
MISSING_US = 120 * SECOND_US
AGAIN_US = 600 * SECOND_US
"""After this at most a study that could not be published is tried again."""
FORGOTTEN_US = 60 * SECOND_US
"""What has not been published for so long and is not due is of a server of an earlier version, which has died."""
AHEAD_US = 2 * AGAIN_US
"""What is due later than this was written by a clock that was ahead: it is due now."""


class Study(Protocol):
    """What the row of a study says of its publication."""

    @property
    def complete(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def paced(self) -> int: ...
    @property
    def updated(self) -> int: ...
    @property
    def due(self) -> int | None: ...
    @property
    def revision(self) -> int: ...
    @property
    def published(self) -> int: ...
    @property
    def ended(self) -> int: ...
    @property
    def series_count(self) -> int: ...
    @property
    def instance_count(self) -> int: ...
    @property
    def expected_series(self) -> int | None: ...
    @property
    def expected_instances(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a study must be quiet, in µs."""

    quiet_us: int
    missing_us: int = MISSING_US
    """…where images are known to be missing."""

    @staticmethod
    def of(quiet_s: float) -> Pace:
        """The pace of a quiet time in seconds."""
        return Pace(int(quiet_s * SECOND_US))

    def final_us(self, study: Study, *, updated: int | None = None, more: tuple[int, int] = (0, 0)) -> int:
        """When the study counts as complete if nothing more comes; with `more` series and instances than the row says,
        the last one at `updated`."""
        last = study.updated if updated is None else updated
        if is_missing(study, more):
            return last + max(self.missing_us, self.quiet_us)
        return last if study.ended else last + self.quiet_us

    def stored(self, study: Study, now_us: int, more: tuple[int, int]) -> Json:
        """The columns of a study when `more` series and instances are stored at `now_us`."""
        values: Json = {}
        step, paced = study.step, study.paced
        if study.complete or not study.instance_count:  # begun, or reopened
            step, paced = 0, now_us
            values = {"complete": 0, "step": step, "paced": paced}
        return values | {"due": min(paced + interval_us(step), self.final_us(study, updated=now_us, more=more))}

    def published(self, study: Study, now_us: int) -> Json:
        """The columns of a study when a version is published at `now_us`."""
        if self.is_complete(study, now_us):
            return {"complete": 1, "step": 0, "paced": now_us, "due": None, "ended": 0}
        return {"step": study.step + 1, "paced": now_us, "due": self.final_us(study)}

    def put_off(self, study: Study, now_us: int) -> Json:
        """The columns of a study that could not be published: later, and ever later."""
        later_us = min(SECOND_US << min(2 * study.step, 20), AGAIN_US)
        return {"step": study.step + 1, "paced": now_us, "due": now_us + later_us}

    def is_complete(self, study: Study, now_us: int) -> bool:
        """Whether its images have all come, as far as can be known."""
        return bool(study.complete) or now_us >= self.final_us(study)


def is_missing(study: Study, more: tuple[int, int] = (0, 0)) -> bool:
    """Whether fewer images are here than are known to exist."""
    return (study.expected_series or 0) > study.series_count + more[0] or (
        study.expected_instances or 0
    ) > study.instance_count + more[1]


def is_due(study: Study, now_us: int) -> bool:
    """Whether there is something to publish by now."""
    if study.due is None:
        return study.published < study.revision and study.updated <= now_us - FORGOTTEN_US
    return study.due <= now_us or study.due > now_us + AHEAD_US


def interval_us(step: int) -> int:
    """From the version before, or from the first commit, to the next version while images keep coming."""
    return FIRST_US if step == 0 else min(SECOND_US << min(step - 1, 10), LONGEST_US)
