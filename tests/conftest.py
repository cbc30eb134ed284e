"""What every test shares: how long Hypothesis searches, and an environment without the settings of whoever runs it."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

from tests.wireclient import doors

# Timing of one example says nothing on a shared machine, so there is no deadline. HYPOTHESIS_EXAMPLES=10000 searches
# longer than `make test` has time for. In CI the same code gets the same examples: a change is judged by what it does,
# not by what a search happened to find; that is for everybody's `make test`.
hypothesis.settings.register_profile(
    "fastmq",
    deadline=None,
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "200")),
    derandomize=os.environ.get("CI") == "true",
)
hypothesis.settings.load_profile("fastmq")

for variable in [name for name in os.environ if name.startswith("FASTMQ_")]:
    del os.environ[variable]

# A broker that is started without a word about its store keeps it here, and not where the machine's own broker would.
os.environ["STATE_DIRECTORY"] = tempfile.mkdtemp(prefix="fastmq-state-")


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["STATE_DIRECTORY"], ignore_errors=True)


@pytest.fixture(autouse=True)
def doors_of_this_test() -> Iterator[None]:
    with doors.forgetting():
        yield
