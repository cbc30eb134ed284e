"""The steps of authentication, one kind of table each: `[[auth.chain]]` with `method = "file"`."""

from dataclasses import dataclass
from typing import ClassVar

from fastmq.config.setting import setting

NAME = "What `auth` of a listener and the log call it; empty: its method."
TIMEOUT = "When it has no answer by then, the client is refused."
CACHE = "How long its answers are remembered; 0: not at all."


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordFile:
    """Users and passwords in a file that `mosquitto_passwd` writes, read again when it changes."""

    told: ClassVar[tuple[str, str]] = ("method", "file")

    name: str = setting("", help=NAME)
    path: str = setting("", not_empty=True, help="The file: a line `user:hash` each; argon2id, bcrypt, `$7$`, `$6$`.")
    timeout_s: float = setting(5.0, unit="s", min=0.1, max=300.0, help=TIMEOUT)
    cache_ttl_s: float = setting(300.0, unit="s", min=0.0, max=86_400.0, help=CACHE)


Step = PasswordFile
"""Any of them."""

KINDS = (PasswordFile,)
