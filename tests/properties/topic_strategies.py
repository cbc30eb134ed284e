"""Topics and filters for Hypothesis: few levels with few names, so that they meet."""

from hypothesis import strategies as st

NAMES = ("a", "b", "", "$a", "ä", "long-level-name")
name = st.sampled_from(NAMES)


def _joined(levels: list[str]) -> str:
    return "/".join(levels) or "/"


topics = st.lists(name, min_size=1, max_size=5).map(_joined)
_inner = st.lists(st.one_of(name, st.just("+")), min_size=0, max_size=4)
_last = st.one_of(name, st.sampled_from(("+", "#")))
filters = st.builds(lambda inner, last: _joined([*inner, last]), _inner, _last)
