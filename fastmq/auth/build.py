"""From the settings to the chain."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from fastmq.auth import password_file
from fastmq.auth.access import AccessControl
from fastmq.auth.by_client import ByClient
from fastmq.auth.chain import Chain, Step
from fastmq.auth.cookies import Cookies
from fastmq.auth.ldap import Directory
from fastmq.auth.lookup import Lookup
from fastmq.auth.mongodb import MongoDbUsers
from fastmq.auth.passwords import Passwords
from fastmq.auth.redis import RedisUsers
from fastmq.auth.scram import Scram, methods
from fastmq.auth.sql import MySqlUsers, PostgreSqlUsers
from fastmq.auth.text_file import TextFile, TextFileError
from fastmq.auth.users import KeptUsers
from fastmq.auth.work import Work
from fastmq.config.auth import BuiltIn, ClientRules, Http, Jwt, PasswordFile
from fastmq.config.cookies import SignedCookie
from fastmq.config.databases import Ldap, MongoDb, MySql, PostgreSql, Redis
from fastmq.config.listener import WEB
from fastmq.config.reload import is_guarded
from fastmq.config.schema import Config
from fastmq.contracts import Authenticator, Facts
from fastmq.errors import ConfigError, Problem


class Means(NamedTuple):
    """What steps may need besides their settings."""

    work: Work
    facts: Facts


def build_chain(config: Config, work: Work, facts: Facts) -> Chain | None:
    """The steps that the settings ask for; None when they ask for none.

    :raises ConfigError: one cannot work like that.
    """
    steps: list[Step] = []
    problems: list[Problem] = []
    for at, settings in enumerate(config.auth.chain):
        name = settings.name or settings.told[1]
        if any(step.name == name for step in steps):
            problems.append(Problem("settings", f"auth.chain[{at}].name", f"{name} is the name of another step, too"))
            continue
        try:
            authenticator = MAKERS[type(settings)](settings, Means(work, facts))
        except ValueError as error:
            problems.append(Problem("settings", f"auth.chain[{at}]", str(error)))
            continue
        steps.append(Step(name, authenticator, settings.timeout_s, settings.cache_ttl_s))
    known = {step.name for step in steps}
    for at, listener in enumerate(config.listen):
        if any(each.title == listener.title and each.auth != listener.auth for each in config.listen[:at]):
            message = f"{listener.title} is also the name of one with another `auth`; give each its own"
            problems.append(Problem("settings", f"listen[{at}].name", message))
        problems += [
            Problem("settings", f"listen[{at}].auth", f"auth.chain has no working step {name}")
            for name in listener.auth
            if name not in known
        ]
    problems += _cookie_problems(config)
    if problems:
        raise ConfigError(problems)
    return Chain(steps, {each.title: each.auth for each in config.listen}) if steps else None


def build_enhanced(config: Config, work: Work) -> list[Scram]:
    """The methods of enhanced authentication that the settings ask for.

    :raises ConfigError: the file cannot be used.
    """
    if not config.auth.scram_file:
        return []
    try:
        return methods(TextFile(Path(config.auth.scram_file), password_file.read, work))
    except TextFileError as error:
        raise ConfigError([Problem("settings", "auth.scram_file", str(error))]) from None


def _cookie_problems(config: Config) -> list[Problem]:
    """Browsers send cookies along for any page: where one is asked for, the pages that may connect must be known."""
    of_cookies = {
        step.name or step.told[1]
        for step in config.auth.chain
        if isinstance(step, SignedCookie)
        or (isinstance(step, Jwt) and step.token_in == "cookie")
        or (isinstance(step, Http) and step.cookies)
    }
    asked = [
        (at, listener)
        for at, listener in enumerate(config.listen)
        if listener.scheme in WEB and (of_cookies & set(listener.auth) if listener.auth else of_cookies)
    ]
    return [
        Problem(
            "settings", f"listen[{at}].origins", "must be set: cookies are asked for here, and any page could send them"
        )
        for at, listener in asked
        if not listener.origins
    ]


def build_access(config: Config, work: Work) -> AccessControl | None:
    """What the settings, and those who authenticate, say about who may do what; None when nobody says anything.

    :raises ConfigError: the file cannot be used.
    """
    settings = config.acl
    if not is_guarded(config):
        return None
    try:
        return AccessControl(settings, work)
    except TextFileError as error:
        raise ConfigError([Problem("settings", "acl.file", str(error))]) from None


def _passwords(settings: PasswordFile, means: Means) -> Authenticator:
    return Passwords(Path(settings.path), means.work)


def _kept(settings: BuiltIn, means: Means) -> Authenticator:
    return KeptUsers(settings, means.facts, means.work)


def _tokens(settings: Jwt, means: Means) -> Authenticator:
    from fastmq.auth.tokens import Tokens  # here: it needs an extra

    return Tokens(settings, means.work)


def _service(settings: Http, means: Means) -> Authenticator:
    from fastmq.auth.service import Service

    return Service(settings)


def _postgresql(settings: PostgreSql, means: Means) -> Authenticator:
    return Lookup(settings, PostgreSqlUsers(settings), means.work)


def _mysql(settings: MySql, means: Means) -> Authenticator:
    return Lookup(settings, MySqlUsers(settings), means.work)


def _redis(settings: Redis, means: Means) -> Authenticator:
    return Lookup(settings, RedisUsers(settings), means.work)


def _mongodb(settings: MongoDb, means: Means) -> Authenticator:
    return Lookup(settings, MongoDbUsers(settings), means.work)


def _ldap(settings: Ldap, means: Means) -> Authenticator:
    return Directory(settings)


def _cookies(settings: SignedCookie, means: Means) -> Authenticator:
    return Cookies(settings)


def _client_rules(settings: ClientRules, means: Means) -> Authenticator:
    return ByClient(settings)


MAKERS: Final[dict[type, Callable[[Any, Means], Authenticator]]] = {
    PasswordFile: _passwords,
    BuiltIn: _kept,
    ClientRules: _client_rules,
    Jwt: _tokens,
    Http: _service,
    PostgreSql: _postgresql,
    MySql: _mysql,
    Redis: _redis,
    MongoDb: _mongodb,
    Ldap: _ldap,
    SignedCookie: _cookies,
}
