"""Steps of authentication by the cookie that a browser sends along with its WebSocket."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from fastmq.config.databases import CACHE, NAME, NO_SECRET, TIMEOUT, url_problem
from fastmq.config.setting import setting

ENCODINGS: Final = ("base64", "base64url", "hex")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCookie:
    """A cookie with a signature, `VALUE.SIGNATURE`, as Express and others make it; its value is the user name.

    All listeners that ask it must be `ws` or `wss` and have `origins`: browsers send cookies along for any page.
    """

    told: ClassVar[tuple[str, str]] = ("method", "cookie")

    name: str = setting("", help=NAME)
    cookie: str = setting("", not_empty=True, help="The cookie's name.")
    secret: str = setting(NO_SECRET, not_empty=True, help="What it is signed with, or `file:PATH`, `env:NAME`.")
    digest: Literal["sha256", "sha512"] = setting("sha256", choices=("sha256", "sha512"), help="HMAC with this.")
    encoding: Literal["base64", "base64url", "hex"] = setting(
        "base64", choices=ENCODINGS, help="How the signature is written; with or without `=` at its end."
    )
    prefix: str = setting("", help="What comes before the value, `s:` with Express.")
    session_url: str = setting(
        NO_SECRET,
        help="If the value is the number of a session: the Redis where it is, `redis://[[USER]:PASSWORD@]HOST:PORT`. "
        "Empty: the value is the user name.",
    )
    session_key: str = setting("sess:${session}", help="Its key there; its value is JSON, as connect-redis has it.")
    session_user: str = setting(
        "user", help="Where in it the user name is, `passport.user` for one. Not there: refused."
    )
    timeout_s: float = setting(5.0, unit="s", min=0.1, max=300.0, help=TIMEOUT)
    cache_ttl_s: float = setting(0.0, unit="s", min=0.0, max=86_400.0, help=CACHE)

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        if self.session_url and (message := url_problem(self.session_url, "redis", "rediss")):
            return "session_url", message
        if self.session_url and "${session}" not in self.session_key:
            return "session_key", "must have ${session} in it"
        return None
