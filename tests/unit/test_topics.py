"""Topic names, filters and matching: the specification's own examples, and properties against a regular expression."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq.errors import ProtocolError, TopicFilterInvalid, TopicNameInvalid
from fastmq.reasons import Reason
from fastmq.topics import Subscription, matches, parse_subscription, validate_filter, validate_name

LEVEL = st.sampled_from(["", "a", "b", "$a", "ä", " ", "$SYS"])
TOPICS = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(bool)
FILTERS = st.builds(
    lambda levels, tail: "/".join([*levels, *tail]),
    st.lists(st.one_of(LEVEL, st.just("+")), max_size=5),
    st.sampled_from([[], ["#"]]),
).filter(bool)


@pytest.mark.parametrize(
    ("filter", "topic", "expected"),
    [
        # MQTT 5.0 section 4.7.1.2
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/tennis/player1/#", "sport/tennis/player10", False),
        ("sport/#", "sport", True),
        ("#", "any/thing", True),
        ("#", "/", True),
        # section 4.7.1.3
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        # section 4.7.2
        ("#", "$SYS/broker", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/monitor/Clients", True),
        ("$SYS/#", "$SYS", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("+/a", "b/$a", False),
        ("b/+", "b/$a", True),
        ("b/#", "b/$a", True),
        # section 4.7.3
        ("ACCOUNTS", "Accounts", False),
        ("/finance", "finance", False),
        ("a/b", "a/b", True),
        ("a/b", "a/b/", False),
        ("+/#", "a", True),
        ("+/+/#", "a", False),
    ],
)
def test_a_filter_matches_as_the_specification_says(filter: str, topic: str, expected: bool) -> None:
    assert matches(filter, topic) is expected


@given(FILTERS, TOPICS)
def test_matching_agrees_with_a_regular_expression(filter: str, topic: str) -> None:
    pattern = re.escape(filter).replace(r"\+", "[^/]*")
    if filter == "#":
        pattern = ".*"
    elif filter.endswith("/#"):
        pattern = pattern.removesuffix(r"/\#") + "(/.*)?"
    hidden = topic.startswith("$") and filter[0] in "+#"
    assert matches(filter, topic) == (not hidden and re.fullmatch(pattern, topic) is not None)


@given(TOPICS)
def test_a_topic_matches_itself(topic: str) -> None:
    assert matches(topic, topic)


@pytest.mark.parametrize(
    "name", ["a", "/", "a/b", "a b", "ä/☃", "$SYS/x", "a//b", "\ufeff", "/".join("a" * 128), "x" * 65_535]
)
def test_a_good_name_is_accepted(name: str) -> None:
    validate_name(name)
    validate_filter(name)


@pytest.mark.parametrize(
    "name", ["", "a\0b", "\ud800", "x" * 65_536, "ä" * 32_768, "/".join("a" * 129), "a/+", "a+", "#", "a/#", "a#b"]
)
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(TopicNameInvalid) as caught:
        validate_name(name)
    assert caught.value.reason is Reason.TOPIC_NAME_INVALID


@pytest.mark.parametrize("filter", ["#", "+", "a/#", "/#", "+/+", "a/+/b", "a/+/#", "$SYS/#", "//", "+/"])
def test_a_good_filter_is_accepted(filter: str) -> None:
    validate_filter(filter)


@pytest.mark.parametrize(
    "filter", ["", "a#", "a/#/b", "#/a", "a/b#", "##", "a+", "+a", "a/+b/c", "++", "\0", "/".join("+" * 129)]
)
def test_a_wrong_filter_is_refused(filter: str) -> None:
    with pytest.raises(TopicFilterInvalid) as caught:
        validate_filter(filter)
    assert caught.value.reason is Reason.TOPIC_FILTER_INVALID


def test_the_number_of_levels_is_the_callers_choice() -> None:
    validate_name("a/b/c", levels_max=3)
    with pytest.raises(TopicNameInvalid, match="more than 2 levels"):
        validate_name("a/b/c", levels_max=2)
    assert parse_subscription("$share/g/a/b/c", levels_max=3) == Subscription("a/b/c", "g")
    with pytest.raises(TopicFilterInvalid, match="more than 2 levels"):
        parse_subscription("$share/g/a/b/c", levels_max=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b", Subscription("a/b", None)),
        ("$share/g/a/b", Subscription("a/b", "g")),
        ("$share/g/#", Subscription("#", "g")),
        ("$share/g//a", Subscription("/a", "g")),
        ("$share/$g/+", Subscription("+", "$g")),
        ("$queue/a", Subscription("a", "$queue")),
        ("$queue//", Subscription("/", "$queue")),
        ("$shared/g/a", Subscription("$shared/g/a", None)),
        ("$share", Subscription("$share", None)),
        ("$queue", Subscription("$queue", None)),
        ("a/$share/g", Subscription("a/$share/g", None)),
    ],
)
def test_a_subscription_is_split_into_group_and_filter(text: str, expected: Subscription) -> None:
    assert parse_subscription(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
        "$share/a#/b",
        "$share/g/a#",
        "$queue/",
        "$queue/a+",
    ],
)
def test_a_wrong_subscription_is_refused(text: str) -> None:
    with pytest.raises(TopicFilterInvalid):
        parse_subscription(text)


@given(st.text(alphabet="a/+#$\0\ud800"))
def test_any_text_is_a_subscription_or_refused_with_a_reason(text: str) -> None:
    refusal = None
    try:
        wanted = parse_subscription(text)
        validate_filter(wanted.filter)
    except ProtocolError as error:
        refusal = error
    if refusal:
        assert refusal.reason is Reason.TOPIC_FILTER_INVALID
    else:
        assert text.endswith(wanted.filter)
