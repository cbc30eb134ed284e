"""What every test shares: how long Hypothesis searches, and an environment without the settings of whoever runs it."""

import os

import hypothesis

# Timing of one example says nothing on a shared machine, so there is no deadline. HYPOTHESIS_EXAMPLES=10000 searches
# longer than `make test` has time for.
hypothesis.settings.register_profile(
    "fastmq", deadline=None, max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "200"))
)
hypothesis.settings.load_profile("fastmq")

for variable in [name for name in os.environ if name.startswith("FASTMQ_")]:
    del os.environ[variable]
