"""Which engines a test needs."""

from __future__ import annotations

import pytest

ON_ONE_ENGINE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests of what is judged before any database is asked: the other engine would only repeat them."""
