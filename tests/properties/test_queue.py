"""The engine's queue of deliveries against a deque, across every size at which it changes its shape."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from fastmq._inflight import QueueProbe

BLOCK = 1024
DELIVERY_BYTES_MAX = 64

steps = st.lists(
    st.tuples(st.sampled_from(("push", "front", "pop")), st.integers(1, 3 * BLOCK)), min_size=1, max_size=12
)


@given(steps)
def test_it_is_a_deque(story: list[tuple[str, int]]) -> None:
    queue, oracle, number = QueueProbe(), deque[int](), 0
    for what, times in story:
        for _ in range(times):
            if what == "pop":
                if not oracle:
                    break
                assert queue.pop() == oracle.popleft()
            else:
                number += 1
                queue.push(number, front=what == "front")
                oracle.appendleft(number) if what == "front" else oracle.append(number)
        assert queue.numbers() == list(oracle)


def test_it_stays_in_place_while_it_turns() -> None:
    """As many come as go: it takes no more than what is in it and a block at either end."""
    queue = QueueProbe()
    for number in range(5 * BLOCK):
        queue.push(number)
    most = queue.bytes
    for number in range(20 * BLOCK):
        queue.push(5 * BLOCK + number)
        assert queue.pop() == number
        assert queue.bytes <= most + BLOCK * DELIVERY_BYTES_MAX
    assert queue.numbers() == list(range(20 * BLOCK, 25 * BLOCK))


def test_it_gives_back_what_it_took() -> None:
    queue = QueueProbe()
    for number in range(40 * BLOCK):
        queue.push(number)
    full = queue.bytes
    for _ in range(30 * BLOCK):
        queue.pop()
    assert queue.bytes < full * 0.4, "blocks that are done with are freed"
    for _ in range(10 * BLOCK):
        queue.pop()
    assert queue.bytes == 0
    queue.push(1)
    queue.clear()
    assert queue.bytes == 0
