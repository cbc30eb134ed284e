"""Searches take their time: on a busy machine, one that does not hang may need more than a test does."""

from pathlib import Path

import pytest

SEARCH_TIMEOUT_S = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SEARCH_TIMEOUT_S))
