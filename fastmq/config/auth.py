"""The steps of authentication, one kind of table each: `[[auth.chain]]` with `method = "file"`."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from fastmq.config import networks, patterns, placeholders
from fastmq.config.cookies import SignedCookie
from fastmq.config.databases import CACHE, NAME, NO_SECRET, TIMEOUT, Ldap, MongoDb, MySql, PostgreSql, Redis
from fastmq.config.setting import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordFile:
    """Users and passwords in a file that `mosquitto_passwd` writes, read again when it changes."""

    told: ClassVar[tuple[str, str]] = ("method", "file")

    name: str = setting("", help=NAME)
    path: str = setting("", not_empty=True, help="The file: a line `user:hash` each; argon2id, bcrypt, `$7$`, `$6$`.")
    timeout_s: float = setting(5.0, unit="s", min=0.1, max=300.0, help=TIMEOUT)
    cache_ttl_s: float = setting(300.0, unit="s", min=0.0, max=86_400.0, help=CACHE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """Users that the broker keeps in its store; `fastmq users` changes them while it runs."""

    told: ClassVar[tuple[str, str]] = ("method", "builtin")

    name: str = setting("", help=NAME)
    user_id: Literal["username", "client_id"] = setting(
        "username", choices=("username", "client_id"), help="What of a client its user is found by."
    )
    timeout_s: float = setting(5.0, unit="s", min=0.1, max=300.0, help=TIMEOUT)
    cache_ttl_s: float = setting(300.0, unit="s", min=0.0, max=86_400.0, help=CACHE)


ALGORITHMS = (
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    "Ed25519",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwt:
    """JSON Web Tokens instead of passwords. What is no token is left to the next step; one that is wrong is refused."""

    told: ClassVar[tuple[str, str]] = ("method", "jwt")

    name: str = setting("", help=NAME)
    token_in: Literal["password", "username", "cookie"] = setting(
        "password", choices=("password", "username", "cookie"), help="Where clients put the token."
    )
    cookie: str = setting("", help='For `token_in = "cookie"`: its name. See `method = "cookie"` for listeners.')
    algorithms: tuple[str, ...] = setting(
        ("RS256", "PS256", "ES256", "Ed25519", "EdDSA"),
        choices=ALGORITHMS,
        not_empty=True,
        help="Those that are taken.",
    )
    secret: str = setting(NO_SECRET, help="For HS256 and the like: the secret, or `file:PATH`, `env:NAME` where it is.")
    public_key: str = setting("", help="The file with the key that tokens are signed for, in PEM.")
    jwks_url: str = setting("", help="Where the keys are published (JWKS); then `public_key` is not needed.")
    jwks_refresh_s: float = setting(300.0, unit="s", min=1.0, max=86_400.0, help="How often they are read again.")
    issuer: str = setting("", help="What `iss` must be; empty: anything.")
    audience: str = setting("", help="What must be in `aud`; empty: anything.")
    verify_claims: tuple[str, ...] = setting(
        (),
        item="sub=${username}",
        help="Other claims, and what they must be; `${clientid}` etc. are filled in.",
    )
    username_from: str = setting("", help="The claim that is the user name; empty: the one in CONNECT.")
    client_id_from: str = setting("", help="The claim that is the client identifier; empty: the one in CONNECT.")
    groups_from: str = setting(
        "", help="The claim with the client's groups for `acl.rules`: a list, or a text with spaces between them."
    )
    acl_from: str = setting(
        "acl",
        help="The claim with access rules: a list of rules as EMQX has them, or `pub`, `sub` and `all` with filters.",
    )
    must_expire: bool = setting(True, help="Whether a token without `exp` is refused.")
    leeway_s: float = setting(0.0, unit="s", min=0.0, max=300.0, help="How far clocks may be apart.")
    disconnect_at_expiry: bool = setting(True, help="Whether a client is disconnected when its token expires.")
    timeout_s: float = setting(5.0, unit="s", min=0.1, max=300.0, help=TIMEOUT)
    cache_ttl_s: float = setting(0.0, unit="s", min=0.0, max=86_400.0, help=CACHE)

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        if (self.token_in == "cookie") != bool(self.cookie):
            return "cookie", 'must be set for token_in = "cookie", and for nothing else'
        symmetric = any(each.startswith("HS") for each in self.algorithms)
        if symmetric and any(not each.startswith("HS") for each in self.algorithms):
            return "algorithms", "must not mix HS256 and the like with others: one key cannot be both secret and public"
        if symmetric and not self.secret:
            return "secret", "must be set for HS256 and the like"
        if not symmetric and bool(self.public_key) == bool(self.jwks_url):
            return "public_key", "must be set, or else jwks_url, and not both"
        if self.jwks_url and not self.jwks_url.startswith(("https://", "http://")):
            return "jwks_url", "must begin with https:// or http://"
        for text in self.verify_claims:
            claim, equals, wanted = text.partition("=")
            if not claim or not equals:
                return "verify_claims", f"{text!r} must be like sub=${{username}}"
            if message := placeholders.problem(wanted):
                return "verify_claims", message
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """An HTTP service that is asked with the client's credentials as JSON.

    It answers 200 with `{"result": "allow"}`, `"deny"` or `"ignore"`, and perhaps `is_superuser`, `client_id`,
    `username`, `expire_at` (Unix time), `groups` (a list) and `acl` (rules, as a token has them); 204 allows, 401 and
    403 refuse. All else is a failure.
    """

    told: ClassVar[tuple[str, str]] = ("method", "http")

    name: str = setting("", help=NAME)
    url: str = setting("", not_empty=True, help="It is asked with POST.")
    headers: tuple[str, ...] = setting(
        (), item="X-Site: berlin", help="Headers to send; for secrets there is `authorization`."
    )
    authorization: str = setting(
        NO_SECRET, help="The Authorization header, `Bearer ...` for one, or `file:PATH`, `env:NAME` where it is."
    )
    cookies: tuple[str, ...] = setting(
        (),
        item="session",
        help="Names of cookies of the browser that are sent along to it, so that it says whose they are. A client "
        'without any of them is left to the next step. See `method = "cookie"` for listeners.',
    )
    ca: str = setting("", help="The file with the authorities that its certificate may come from; empty: the system's.")
    pool_size: int = setting(8, min=1, max=1000, help="Connections to it at most.")
    timeout_s: float = setting(5.0, unit="s", min=0.1, max=300.0, help=TIMEOUT)
    cache_ttl_s: float = setting(0.0, unit="s", min=0.0, max=86_400.0, help=CACHE)

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        if not self.url.startswith(("https://", "http://")):
            return "url", "must begin with https:// or http://"
        for header in self.headers:
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*", header):
                return "headers", f"{header!r} must be like X-Site: berlin"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientRules:
    """What is known without asking anybody: the client identifier, the user name, the address, the certificate.

    Who all of them fit is let in, or refused; the others are left to the next step.
    """

    told: ClassVar[tuple[str, str]] = ("method", "client")

    name: str = setting("", help=NAME)
    permission: Literal["allow", "deny"] = setting("allow", choices=("allow", "deny"), help="What becomes of them.")
    client_id_regex: str = setting(
        "", help="Whose client identifier this regular expression matches as a whole; empty: all."
    )
    username_regex: str = setting("", help="Whose whole user name this matches; empty: all.")
    addresses: tuple[str, ...] = setting((), item="10.0.0.0/8", help="Who come from these networks; empty: all.")
    certificate_regex: str = setting(
        "", help="Whose certificate has a subject, `CN=a,O=b`, that this matches as a whole; empty: all."
    )
    timeout_s: float = setting(5.0, unit="s", min=0.1, max=300.0, help=TIMEOUT)
    cache_ttl_s: float = setting(0.0, unit="s", min=0.0, max=86_400.0, help=CACHE)

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        for key in ("client_id_regex", "username_regex", "certificate_regex"):
            if message := patterns.problem(getattr(self, key)):
                return key, message
        try:
            networks.parse(self.addresses)
        except ValueError as error:
            return "addresses", str(error)
        if not (self.client_id_regex or self.username_regex or self.addresses or self.certificate_regex):
            return "permission", "is for everybody: say for whom"
        return None


Step = PasswordFile | BuiltIn | ClientRules | Jwt | Http | PostgreSql | MySql | Redis | MongoDb | Ldap | SignedCookie
"""Any of them."""

KINDS = (PasswordFile, BuiltIn, ClientRules, Jwt, Http, PostgreSql, MySql, Redis, MongoDb, Ldap, SignedCookie)

TELL_RULES = (BuiltIn, Jwt, Http, PostgreSql, MySql, Redis, MongoDb, Ldap)
"""Those that may say what a client may do, too."""
