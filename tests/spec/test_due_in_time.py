"""What is due happens in time: also when the client comes back before the broker's timers have come round.

Goes to tests/spec/test_due_in_time.py with the engine change.
"""

from __future__ import annotations

import time

import pytest

from tests.spec.conftest import Join
from tests.wireclient import Will
from tests.wireclient import properties as p

LATE_MS = [20, 90, 160, 230]  # after the moment, each within a tick of the timers


@pytest.mark.parametrize("late_ms", LATE_MS)
def test_a_session_that_has_expired_is_not_resumed(join: Join, cid: str, late_ms: int) -> None:
    join(5, cid, props=[(p.SESSION_EXPIRY, 1)]).drop()
    time.sleep(1 + late_ms / 1000)
    back = join(5, cid, clean=False)
    assert back.connack is not None
    assert not back.connack.session_present


@pytest.mark.parametrize("late_ms", LATE_MS)
def test_a_will_whose_delay_has_passed_is_published(join: Join, cid: str, topic: str, late_ms: int) -> None:
    watcher = join()
    watcher.subscribe(topic)
    will = Will(topic, b"gone", props=[(p.WILL_DELAY, 1)])
    join(5, cid, props=[(p.SESSION_EXPIRY, 60)], will=will).drop()
    time.sleep(1 + late_ms / 1000)
    join(5, cid, clean=False)
    assert watcher.receive(timeout=1).payload == b"gone"


def test_the_first_message_goes_to_the_first_member(join: Join, topic: str) -> None:
    members = [join(), join(), join()]
    for member in members:
        member.subscribe(f"$share/group/{topic}")
    publisher = join()
    for payload in (b"1", b"2", b"3", b"4"):
        publisher.publish(topic, payload)
    assert [[m.payload for m in member.arrived()] for member in members] == [[b"1", b"4"], [b"2"], [b"3"]]
