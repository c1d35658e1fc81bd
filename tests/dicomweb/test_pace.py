"""When a study is published: at once, at doubling intervals while its images come, and when they have all come."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest

from dicomweb.pace import AGAIN_US, AHEAD_US, FORGOTTEN_US, SECOND_US, Pace, is_due

PACE = Pace.of(5)


@dataclass(frozen=True)
class Study:
    complete: int = 0
    step: int = 0
    paced: int = 0
    updated: int = 0
    due: int | None = None
    revision: int = 0
    published: int = -1
    ended: int = 0
    series_count: int = 0
    instance_count: int = 0
    expected_series: int | None = None
    expected_instances: int | None = None

    def stored(self, now: int, count: int = 1) -> Study:
        return self._with(
            PACE.stored(self, now, (0, count)), revision=self.revision + 1, updated=now,
            instance_count=self.instance_count + count,
        )

    def published_at(self, now: int) -> Study:
        return self._with(PACE.published(self, now), published=self.revision)

    def _with(self, values: Any, **more: Any) -> Study:
        return replace(self, **{**values, **more})


def sent(count: int, every_us: int) -> tuple[list[int], Study]:
    """When versions are made of a study of which an image comes every so often, by a worker that is never late."""
    study, versions, now = Study(), [], 0
    for number in range(count):
        now = number * every_us
        while study.due is not None and study.due <= now:
            versions.append(study.due)
            study = study.published_at(study.due)
        study = study.stored(now)
    while study.due is not None:
        versions.append(study.due)
        study = study.published_at(study.due)
    return versions, study


@pytest.mark.parametrize("every_ms", [1, 20, 50, 100, 200, 300])
def test_two_thousand_slices_one_by_one_are_few_versions(every_ms: int) -> None:
    """At most thirty: the first within a second, never more than half a minute apart, the last a quiet time later."""
    versions, study = sent(2000, every_ms * 1000)
    last = 1999 * every_ms * 1000
    assert len(versions) <= 30
    assert versions[0] <= SECOND_US
    apart = [after - before for before, after in pairwise(versions) if after <= last]
    assert all(one <= 30 * SECOND_US for one in apart)
    assert apart == sorted(apart)
    assert versions[-1] == last + PACE.quiet_us
    assert (study.complete, study.published) == (1, study.revision)


def test_a_single_image_is_told_at_once_and_complete_when_quiet() -> None:
    versions, _ = sent(1, 1)
    assert versions == [300_000, PACE.quiet_us]


def test_a_later_image_reopens_what_was_complete() -> None:
    _, study = sent(3, 1000)
    late = study.updated + 3600 * SECOND_US
    reopened = study.stored(late)
    assert (reopened.complete, reopened.step) == (0, 0)
    assert reopened.due is not None
    assert reopened.due - late <= SECOND_US
    assert reopened.published_at(reopened.due).due == late + PACE.quiet_us


def test_the_word_of_the_modality_ends_the_wait_once() -> None:
    """MPPS completed: complete with the next version; an image that comes after it is waited for as any other."""
    study = replace(Study().stored(0), ended=1)
    assert PACE.is_complete(study, 1)
    ended = study.published_at(1)
    assert (ended.complete, ended.due, ended.ended) == (1, None, 0)
    assert not PACE.is_complete(ended.stored(2), 3)


def test_what_is_known_to_be_missing_is_waited_for_but_not_for_ever() -> None:
    study = replace(Study(expected_instances=3, ended=1).stored(0), series_count=1)
    assert not PACE.is_complete(study, PACE.quiet_us)
    assert PACE.is_complete(study, PACE.missing_us)
    whole = study.stored(1).stored(2)
    assert PACE.is_complete(whole, 2), "the last that is known has come"
    assert not PACE.is_complete(replace(whole, expected_series=2), 2)


def test_what_cannot_be_published_is_tried_ever_later() -> None:
    study, waits = Study().stored(0), []
    for _ in range(8):
        study = replace(study, **PACE.put_off(study, 0))
        waits.append(study.due)
    assert waits == sorted(waits)
    assert waits[0] == SECOND_US
    assert waits[-1] == AGAIN_US


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        (Study(due=5), True), (Study(due=11), False), (Study(due=None, revision=1, published=1), False),
        # A clock that was ahead, and a server of an earlier version that died.
        (Study(due=11 + AHEAD_US), True), (Study(updated=10 - FORGOTTEN_US, revision=1, published=0), True),
        (Study(updated=11 - FORGOTTEN_US, revision=1, published=0), False),
    ],
)  # fmt: skip
def test_what_is_due(study: Study, expected: bool) -> None:
    assert is_due(study, 10) is expected
