"""Sizes as people read them."""

from __future__ import annotations

import pytest

from unshard.progress import shown_bytes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),  # never 1000.0 kB
        (319_837_012_480, "319.8 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert shown_bytes(count) == text
