"""A private file is there whole or not at all, durably, and nobody else's to read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from store.engine.files import write_private


@pytest.mark.parametrize("replace", [True, False])
def test_the_content_is_durable_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, replace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, done = tmp_path / "new" / "secret", list[str]()

    def told(what: str, genuine: Any) -> Any:
        def act(*given: Any, **named: Any) -> Any:
            is_folder = what == "sync" and Path(f"/proc/self/fd/{given[0]}").is_dir()
            done.append("sync the folder" if is_folder else what)
            return genuine(*given, **named)

        return act

    monkeypatch.setattr(os, "fsync", told("sync", os.fsync))
    monkeypatch.setattr(os, "link", told("name", os.link))
    monkeypatch.setattr(Path, "replace", told("name", Path.replace))
    assert write_private(path, "x", replace=replace)
    assert done == ["sync", "name", "sync the folder"]
    assert path.read_text() == "x"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("replace", [True, False])
def test_the_first_wins_unless_it_is_replaced_and_nothing_is_left_beside(tmp_path: Path, replace: bool) -> None:
    assert write_private(tmp_path / "secret", "one")
    assert write_private(tmp_path / "secret", "two", replace=replace) is replace
    assert (tmp_path / "secret").read_text() == ("two" if replace else "one")
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]
