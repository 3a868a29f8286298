"""The content check with scores that a test says, so that the network need not run."""

from __future__ import annotations

from collections.abc import Callable

import PIL.Image
import pytest

from calotype.safety import content


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    monkeypatch.delenv("CALOTYPE_CONTENT_CHECK", raising=False)

    def say(value: float) -> None:
        def score(_: PIL.Image.Image) -> float:
            return value

        monkeypatch.setattr(content, "score", score)

    return say
