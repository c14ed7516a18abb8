"""Keys of every live source, for tests that ask for them."""

from __future__ import annotations

import pytest
from carbon_stub import ENVIRONMENT


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the keys that the stub takes."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
