"""What the engine takes for UTF-8, a topic name and a topic filter, against Python and `fastmq.topics`."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastmq import topics
from fastmq._wire import filter_reason, is_utf8, topic_reason
from fastmq.errors import ProtocolError

MALFORMED, TOPIC_FILTER_INVALID, TOPIC_NAME_INVALID = 0x81, 0x8F, 0x90
LEVELS_MAX = 5

texts = st.text(st.sampled_from("ab/+#$ä\U0001f426"), max_size=12)
nearly_utf8 = st.one_of(
    st.binary(max_size=8),
    st.lists(
        st.sampled_from([0x00, 0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0x9F, 0xA0])
    ).map(bytes),
    st.text(max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")),
)


def decodes(raw: bytes) -> bool:
    try:
        return "\0" not in raw.decode()
    except UnicodeDecodeError:
        return False


@settings(max_examples=1000)
@given(nearly_utf8)
@example(b"\xed\xa0\x80")
@example(b"\xc0\xaf")
@example(b"\xf4\x90\x80\x80")
@example(b"\xef\xbb\xbf")
@example(b"a\xe2\x82")
def test_utf8_is_what_python_decodes(raw: bytes) -> None:
    assert is_utf8(raw) == decodes(raw)


@given(nearly_utf8)
def test_topics_and_filters_that_are_not_utf8_are_malformed(raw: bytes) -> None:
    if raw and not decodes(raw) and not set(b"+#/") & set(raw):
        assert topic_reason(raw) == filter_reason(raw) == MALFORMED


def is_valid(check: object, text: str) -> bool:
    assert callable(check)
    try:
        check(text, LEVELS_MAX)
    except ProtocolError:
        return False
    return True


@settings(max_examples=1000)
@given(texts)
@example("")
@example("/")
@example("a//b")
@example("#/a")
@example("a#")
@example("/+")
@example("a/b/c/d/e")
@example("a/b/c/d/e/f")
def test_names_and_filters_are_what_the_readable_rules_accept(text: str) -> None:
    raw = text.encode()
    assert topic_reason(raw, LEVELS_MAX) == (0 if is_valid(topics.validate_name, text) else TOPIC_NAME_INVALID)
    assert filter_reason(raw, LEVELS_MAX) == (0 if is_valid(topics.validate_filter, text) else TOPIC_FILTER_INVALID)
