"""Steps of authentication that look a client up: databases and directories."""

import json
import re
from dataclasses import dataclass
from typing import ClassVar, Final, Literal
from urllib.parse import urlsplit

from fastmq.config import placeholders
from fastmq.config.secret import Secret
from fastmq.config.setting import setting

NAME: Final = "What `auth` of a listener and the log call it; empty: its method."
TIMEOUT: Final = "When it has no answer by then, the client is refused."
CACHE: Final = "How long its answers are remembered; 0: not at all."
NO_SECRET: Final = Secret("")

HASHES: Final = ("argon2id", "bcrypt", "pbkdf2", "plain", "md5", "sha", "sha256", "sha512")

USERS: Final = "SELECT password_hash, salt, is_superuser FROM mqtt_user WHERE username = ${username} LIMIT 1"
RULES: Final = "SELECT permission, action, topic, qos, retain FROM mqtt_acl WHERE username = ${username}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    name: str = setting("", help=NAME)
    hash: Literal["argon2id", "bcrypt", "pbkdf2", "plain", "md5", "sha", "sha256", "sha512"] = setting(
        "argon2id",
        choices=HASHES,
        help="How passwords are stored. `$6$` and `$7$` of mosquitto_passwd go with argon2id.",
    )
    salt_position: Literal["prefix", "suffix", "disable"] = setting(
        "prefix", choices=("prefix", "suffix", "disable"), help="Where the salt is put for `md5`, `sha` and so on."
    )
    pbkdf2_mac: Literal["sha", "sha256", "sha512"] = setting(
        "sha256", choices=("sha", "sha256", "sha512"), help="The hash that PBKDF2 repeats."
    )
    pbkdf2_iterations: int = setting(4096, min=1, max=10_000_000, help="How often.")
    pbkdf2_bytes: int = setting(32, unit="bytes", min=1, max=512, help="How much of it is stored.")
    pool_size: int = setting(8, min=1, max=1000, help="Connections at most.")
    timeout_s: float = setting(5.0, unit="s", min=0.1, max=300.0, help=TIMEOUT)
    cache_ttl_s: float = setting(0.0, unit="s", min=0.0, max=86_400.0, help=CACHE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sql(_Stored):
    url: str = setting(
        NO_SECRET, not_empty=True, help="`SCHEME://USER:PASSWORD@HOST:PORT/DATABASE`, or `file:`, `env:`."
    )
    query: str = setting(
        USERS,
        not_empty=True,
        help="Its first row is the user: `password_hash`, and if there are such columns, `salt` and `is_superuser`. "
        "`${username}`, `${clientid}`, `${peerhost}` become parameters. No row: the next step is asked.",
    )
    acl_query: str = setting(
        "",
        help=f"Its rows are the user's rules: `{RULES}`, for one. Empty: none.",
    )

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        if message := url_problem(self.url, *SCHEMES[type(self).__name__]):
            return "url", message
        for key in ("query", "acl_query"):
            if message := placeholders.problem(getattr(self, key)):
                return key, message
            if re.search(r"""['"]\s*\$\{""", getattr(self, key)):
                return key, "needs no quotes around ${...}: it is a parameter"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgreSql(_Sql):
    """Users, and perhaps their rules, in a PostgreSQL database."""

    told: ClassVar[tuple[str, str]] = ("method", "postgresql")


@dataclass(frozen=True, slots=True, kw_only=True)
class MySql(_Sql):
    """Users, and perhaps their rules, in a MySQL or MariaDB database."""

    told: ClassVar[tuple[str, str]] = ("method", "mysql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis(_Stored):
    """Users, and perhaps their rules, in Redis: a hash for each."""

    told: ClassVar[tuple[str, str]] = ("method", "redis")

    url: str = setting(
        NO_SECRET, not_empty=True, help="`redis://[[USER]:PASSWORD@]HOST:PORT[/NUMBER]`, or `rediss://` for TLS."
    )
    key: str = setting(
        "mqtt_user:${username}",
        not_empty=True,
        help="The hash with `password_hash`, perhaps `salt` and `is_superuser`. Not there: the next step is asked.",
    )
    acl_key: str = setting(
        "",
        help="The hash with what the user may do, EMQX's `mqtt_acl:${username}` for one: topic filters, and for each "
        '`publish`, `subscribe`, `all`, or JSON: `{"action": "publish", "qos": [0, 1]}`. Empty: none.',
    )

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        if message := url_problem(self.url, "redis", "rediss"):
            return "url", message
        for key in ("key", "acl_key"):
            if message := placeholders.problem(getattr(self, key)):
                return key, message
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class MongoDb(_Stored):
    """Users, and perhaps their rules, in a MongoDB database: a document each."""

    told: ClassVar[tuple[str, str]] = ("method", "mongodb")

    url: str = setting(
        NO_SECRET,
        not_empty=True,
        help="`mongodb://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/DATABASE[?OPTIONS]`, or `mongodb+srv://`.",
    )
    collection: str = setting("mqtt_user", not_empty=True, help="Where the users are.")
    filter: str = setting(
        '{"username": "${username}"}',
        not_empty=True,
        help="Which of them the client is: MongoDB's query, in JSON. The document has `password_hash`, perhaps `salt` "
        "and `is_superuser`. None: the next step is asked.",
    )
    acl_collection: str = setting(
        "",
        help="Where their rules are, EMQX's `mqtt_acl` for one: `permission`, `action`, `topic` or a list `topics`, "
        "perhaps `qos` and `retain`. Empty: none.",
    )
    acl_filter: str = setting('{"username": "${username}"}', not_empty=True, help="Which of them are the client's.")

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        # Not by url_problem: there may be several hosts.
        if not re.match(r"mongodb(\+srv)?://.*[^/]+/[^/?]+(\?|$)", self.url):
            return "url", "must begin with mongodb:// or mongodb+srv:// and name a host and a database"
        for key in ("filter", "acl_filter"):
            if message := placeholders.problem(getattr(self, key)):
                return key, message
            try:
                is_object = isinstance(json.loads(getattr(self, key)), dict)
            except ValueError:
                is_object = False
            if not is_object:
                return key, "must be a JSON object"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ldap:
    """A directory (LDAP): the client is whoever may bind with its password."""

    told: ClassVar[tuple[str, str]] = ("method", "ldap")

    name: str = setting("", help=NAME)
    url: str = setting("", not_empty=True, help="`ldap://HOST:PORT` or `ldaps://HOST:PORT`.")
    start_tls: bool = setting(False, help="Whether TLS begins on the connection of `ldap://`.")
    ca: str = setting("", help="The file with the authorities that its certificate may come from; empty: the system's.")
    bind_dn: str = setting(
        "",
        help="Who the user is in the directory: `uid=${username},ou=people,dc=example,dc=org`. Empty: it is searched.",
    )
    search_base: str = setting("", help="Where it is searched.")
    search_filter: str = setting("(uid=${username})", help="By what.")
    search_dn: str = setting("", help="Who searches; empty: nobody in particular.")
    search_password: str = setting(NO_SECRET, help="Its password, or `file:PATH`, `env:NAME`.")
    superuser_filter: str = setting(
        "", help="Whoever this fits is a superuser, `(memberOf=cn=mqtt-admins,ou=groups,dc=example,dc=org)` for one."
    )
    timeout_s: float = setting(5.0, unit="s", min=0.1, max=300.0, help=TIMEOUT)
    cache_ttl_s: float = setting(60.0, unit="s", min=0.0, max=86_400.0, help=CACHE)

    def wrong(self) -> tuple[str, str] | None:
        """The key that cannot be like that, and why."""
        if message := url_problem(self.url, "ldap", "ldaps"):
            return "url", message
        if self.start_tls and self.url.startswith("ldaps:"):
            return "start_tls", "is for ldap://: ldaps:// has TLS from its start"
        if bool(self.bind_dn) == bool(self.search_base):
            return "bind_dn", "must be set, or else search_base, and not both"
        for key in ("bind_dn", "search_filter", "superuser_filter"):
            if message := placeholders.problem(getattr(self, key)):
                return key, message
        return None


SCHEMES: Final = {"PostgreSql": ("postgresql", "postgres"), "MySql": ("mysql", "mariadb")}


def url_problem(url: str, *schemes: str) -> str:
    """What is wrong with the address of a server; never the address, which may have a password. Empty: nothing."""
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        return "is no address"
    if split.scheme not in schemes:
        return f"must begin with {' or '.join(f'{each}://' for each in schemes)}"
    if not split.hostname or port == 0:
        return "needs a host"
    return ""


KINDS: Final = (PostgreSql, MySql, Redis, MongoDb, Ldap)
