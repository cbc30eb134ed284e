"""Random records for stores: any that an engine may write, over few sessions, messages and positions.

A position of a subscriber belongs to one message for ever, as with an engine, which never uses a position again.
"""

from hypothesis import strategies as st

from fastmq.store import records as r

SERIALS = st.integers(1, 4)
MESSAGES = st.integers(1, 40)
POSITIONS = st.one_of(st.integers(0, 9), st.sampled_from((255, 256, 257, 2**40)))
PACKET_IDS = st.sampled_from((1, 2, 3, 127, 128, 65_535))
GROUPS = st.sampled_from(("$share/g/a", "$share/g/#", "$queue/a"))
FILTERS = st.one_of(st.sampled_from(("a", "a/+", "#", "ü/é", "$SYS/#")), GROUPS)
EXPIRIES = st.sampled_from((None, None, 1, 1500, 2000, 2**50))
NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))


def message_at(subscriber: int, position: int) -> int:
    """The message that a position is for; spread, so that most are shared and not all are new."""
    return (subscriber * 7 + position * 3) % 40 + 1


@st.composite
def messages(draw: st.DrawFn) -> r.Message:
    topic = draw(st.sampled_from(("a", "a/b", "ü/é", "x" * 300)))
    properties = draw(st.sampled_from((b"", b"\x01\x01", b"\x26\x00\x01k\x00\x01v")))
    payload = draw(st.one_of(st.binary(max_size=20), st.just(bytes(5000))))
    qos, retain = draw(st.integers(0, 2)), draw(st.booleans())
    return r.Message(draw(MESSAGES), qos, retain, draw(NUMBERS), draw(EXPIRIES), topic, properties, payload)


@st.composite
def deliveries(draw: st.DrawFn) -> r.Delivery:
    subscriber, position, state = draw(SERIALS), draw(POSITIONS), draw(st.integers(0, 3))
    packet_id = draw(PACKET_IDS) if state else 0
    ids = tuple(draw(st.lists(st.sampled_from((1, 127, 128, 268_435_455)), max_size=3)))
    message = message_at(subscriber, position)
    return r.Delivery(
        subscriber, position, message, draw(st.integers(0, 2)), draw(st.booleans()), state, packet_id, ids
    )


@st.composite
def states(draw: st.DrawFn) -> r.State:
    state = draw(st.integers(0, 3))
    return r.State(draw(SERIALS), draw(POSITIONS), state, draw(PACKET_IDS) if state else 0)


OF_MESSAGES = st.one_of(
    messages(),
    messages(),
    st.builds(r.Forget, MESSAGES),
    st.builds(r.Retained, MESSAGES),
    st.builds(r.Unretained, MESSAGES),
)
OF_DELIVERIES = st.one_of(deliveries(), deliveries(), states(), st.builds(r.Done, SERIALS, POSITIONS))
OF_SESSIONS = st.one_of(
    st.builds(
        r.Session, SERIALS, st.sampled_from(("", "c", "ü")), st.sampled_from((0, 60, 2**32 - 1)), NUMBERS, NUMBERS
    ),
    st.builds(
        r.Subscribed, SERIALS, st.sampled_from((0, 1, 0x2E, 0x81)), st.sampled_from((0, 1, 268_435_455)), FILTERS
    ),
    st.builds(r.Unsubscribed, SERIALS, FILTERS),
    st.builds(r.Received, SERIALS, PACKET_IDS),
    st.builds(r.Released, SERIALS, PACKET_IDS),
    st.builds(r.Will, SERIALS, MESSAGES, st.integers(0, 2**32 - 1), st.one_of(st.none(), st.integers(0, 2**32 - 1))),
    st.builds(r.WillGone, SERIALS),
    st.builds(r.Group, SERIALS, GROUPS),
    st.builds(r.GroupGone, SERIALS),
    st.builds(r.Ended, SERIALS),
)
RECORDS: st.SearchStrategy[r.Record] = st.one_of(OF_MESSAGES, OF_DELIVERIES, OF_SESSIONS)
BATCHES = st.lists(RECORDS, min_size=1, max_size=25)
