"""Regular expressions in settings."""

import re


def problem(text: str) -> str:
    """Why this is no regular expression; empty: it is one."""
    try:
        re.compile(text)
    except re.error as error:
        return f"is no regular expression: {error}"
    return ""
