"""Parameters for tests that hold for several versions of the protocol: 3 is MQTT 3.1, 4 is 3.1.1, 5 is 5.0."""

import pytest

every_version = pytest.mark.parametrize("version", [3, 4, 5])
from_311 = pytest.mark.parametrize("version", [4, 5])
before_5 = pytest.mark.parametrize("version", [3, 4])
every_qos = pytest.mark.parametrize("qos", [0, 1, 2])
