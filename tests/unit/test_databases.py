"""Authentication against real servers: PostgreSQL, MariaDB, Redis, MongoDB, OpenLDAP; also when they hang or die."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from fastmq.auth import hashes, stored
from fastmq.auth.build import build_chain
from fastmq.auth.chain import Chain
from fastmq.auth.lookup import rule_of, user_of
from fastmq.auth.mongodb import filled
from fastmq.auth.sql import prepared
from fastmq.auth.work import Work
from fastmq.broker.facts import Facts
from fastmq.config.databases import RULES, Ldap, MongoDb, MySql, PostgreSql, Redis
from fastmq.config.schema import AuthSettings, Config
from fastmq.contracts import AccessRule, Authentication, Credentials
from tests import servers
from tests.brokerproc import await_condition, running_broker
from tests.servers import PASSWORD, Server
from tests.wireclient import Client

pytestmark = pytest.mark.filterwarnings("ignore:.*match_hostname:DeprecationWarning")  # ldap3 calls it

ARGON2 = hashes.make(b"secret")
MOSQUITTO = hashes.make(b"secret", "sha512-pbkdf2", 1000)

#: name: (settings, password_hash, salt)
STORED: dict[str, tuple[dict[str, Any], str, str]] = {
    "argon2id": ({}, ARGON2, ""),
    "mosquitto": ({}, MOSQUITTO, ""),
    "bcrypt": ({"hash": "bcrypt"}, bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode(), ""),
    "plain": ({"hash": "plain"}, "secret", ""),
    "md5": ({"hash": "md5"}, hashlib.md5(b"saltsecret").hexdigest(), "salt"),
    "sha": ({"hash": "sha", "salt_position": "suffix"}, hashlib.sha1(b"secretsalt").hexdigest(), "salt"),
    "sha256": ({"hash": "sha256", "salt_position": "disable"}, hashlib.sha256(b"secret").hexdigest().upper(), "salt"),
    "sha512": ({"hash": "sha512"}, hashlib.sha512(b"secret").hexdigest(), ""),
    "pbkdf2": ({"hash": "pbkdf2"}, hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 4096, 32).hex(), "salt"),
    "pbkdf2 sha512": (
        {"hash": "pbkdf2", "pbkdf2_mac": "sha512", "pbkdf2_iterations": 10, "pbkdf2_bytes": 64},
        hashlib.pbkdf2_hmac("sha512", b"secret", b"salt", 10, 64).hex(), "salt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", STORED)
def test_stored_hashes(kind: str) -> None:
    settings, hash, salt = STORED[kind]
    step = Redis(url="redis://x", **settings)
    assert stored.fits(step, hash, salt, b"secret")
    for wrong in (b"secrets", b"", b"Secret", hash.encode()[1:], b"s" * 70_000):
        assert not stored.fits(step, hash, salt, wrong)
    assert not stored.fits(step, stored.nobodys(step), "", b"secret")


@pytest.mark.parametrize("hash", ["", "secret", "$2b$04$short", "$argon2id$x", "$9$x"])
def test_what_is_no_hash_is_a_failure(hash: str) -> None:
    with pytest.raises(ValueError, match="a stored hash") as refused:
        stored.fits(Redis(url="redis://x"), hash, "", b"secret")
    assert not hash or hash not in str(refused.value)


def test_places_become_parameters() -> None:
    query = "SELECT a FROM b WHERE c = ${username} AND d LIKE '%x' AND e = ${clientid} AND f = ${username}"
    assert prepared(query, "$")[0] == "SELECT a FROM b WHERE c = $1 AND d LIKE '%x' AND e = $2 AND f = $3"
    assert prepared(query, "%s")[0] == "SELECT a FROM b WHERE c = %s AND d LIKE '%%x' AND e = %s AND f = %s"
    assert prepared(query, "$")[1] == ["username", "clientid", "username"]


def test_rows() -> None:
    assert user_of({"password_hash": b"x", "salt": None, "is_superuser": b"\1"}).superuser
    assert not user_of({"password_hash": "x", "is_superuser": "0"}).superuser
    with pytest.raises(ValueError, match="password_hash"):
        user_of({"salt": "x"})
    assert rule_of({"permission": "DENY", "action": "Publish", "topic": "a", "qos": "0,1", "retain": 1}) == (
        AccessRule(topic="a", allow=False, action="publish", qos=(0, 1), retain=True),
    )
    for bad in ({}, {"topic": "a#"}, {"topic": "a", "qos": "x"}, {"topic": "a", "permission": "x"}, {"topic": 5}):
        with pytest.raises(ValueError, match=r".+"):
            rule_of(bad)


# -- each of the servers -----------------------------------------------------------------------------------------------

HASH = hashlib.sha256(b"saltsecret").hexdigest()
TABLES = f"""
CREATE TABLE mqtt_user (username VARCHAR(100) PRIMARY KEY, password_hash VARCHAR(200), salt VARCHAR(40), is_superuser BOOLEAN);
CREATE TABLE mqtt_acl (username VARCHAR(100), permission VARCHAR(5), action VARCHAR(9), topic VARCHAR(200), qos SMALLINT, retain SMALLINT);
INSERT INTO mqtt_user VALUES ('ada', '{HASH}', 'salt', false), ('root', '{HASH}', 'salt', true), ('broken', NULL, NULL, false);
INSERT INTO mqtt_acl VALUES ('ada', 'allow', 'publish', 'up/${{clientid}}', 1, 0), ('ada', 'deny', 'all', '#', NULL, NULL);
"""  # noqa: E501
ENTRIES = "\n".join(
    [
        "dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n",
        "dn: ou=people,dc=example,dc=org\nobjectClass: organizationalUnit\nou: people\n",
        *(
            f"dn: uid={name},ou=people,dc=example,dc=org\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\n"
            f"sn: {name}\nemployeeType: {kind}\nuserPassword: secret\n"
            for name, kind in (("ada", "user"), ("root", "admin"), ("a*b", "user"))
        ),
    ]
)


def test_places_in_a_query_become_texts_and_nothing_else() -> None:
    query = {"$or": [{"u": "${username}"}, {"n": {"$in": ["${clientid}", 5, None]}}], "on": True}
    values = {"username": '{"$gt": ""}', "clientid": "c"}
    found = filled(query, values)
    assert found == {"$or": [{"u": '{"$gt": ""}'}, {"n": {"$in": ["c", 5, None]}}], "on": True}
    assert filled(query, {"username": "a", "clientid": None}) is None
    assert filled({"a": {"b": ["${username}"]}}, {"username": None}) is None


@contextmanager
def postgresql() -> Iterator[tuple[Server, dict[str, Any]]]:
    with servers.postgresql(TABLES) as (server, url):
        yield server, {"method": "postgresql", "url": url, "acl_query": RULES}


@contextmanager
def mariadb() -> Iterator[tuple[Server, dict[str, Any]]]:
    with servers.mariadb(TABLES) as (server, url):
        yield server, {"method": "mysql", "url": url, "acl_query": RULES}


@contextmanager
def redis() -> Iterator[tuple[Server, dict[str, Any]]]:
    commands = [
        ["HSET", "mqtt_user:ada", "password_hash", HASH, "salt", "salt"],
        ["HSET", "mqtt_user:root", "password_hash", HASH, "salt", "salt", "is_superuser", "1"],
        ["SET", "mqtt_user:broken", "no hash"],
        ["HSET", "mqtt_acl:ada", "up/${clientid}", '{"action": "publish", "qos": [1], "retain": false}'],
    ]
    with servers.redis(commands) as (server, url):
        yield server, {"method": "redis", "url": url, "acl_key": "mqtt_acl:${username}"}


@contextmanager
def mongodb() -> Iterator[tuple[Server, dict[str, Any]]]:
    documents: dict[str, list[dict[str, Any]]] = {
        "mqtt_user": [
            {"username": "ada", "password_hash": HASH, "salt": "salt"},
            {"username": "root", "password_hash": HASH, "salt": "salt", "is_superuser": True},
            {"username": "broken"},
        ],
        "mqtt_acl": [
            {"username": "ada", "permission": "allow", "action": "publish", "topics": ["up/${clientid}"], "qos": [1],
             "retain": False},
            {"username": "ada", "permission": "deny", "action": "all", "topic": "#"},
        ],
    }  # fmt: skip
    with servers.mongodb(documents) as (server, url):
        yield server, {"method": "mongodb", "url": url, "acl_collection": "mqtt_acl"}


STARTS: dict[str, Callable[[], Any]] = {
    "postgresql": postgresql,
    "mariadb": mariadb,
    "redis": redis,
    "mongodb": mongodb,
}
KINDS = {"postgresql": PostgreSql, "mysql": MySql, "redis": Redis, "mongodb": MongoDb, "ldap": Ldap}


@pytest.fixture(scope="module", params=STARTS)
def database(request: pytest.FixtureRequest) -> Iterator[tuple[Server, dict[str, Any]]]:
    with STARTS[request.param]() as found:
        yield found


def chain_of(step: dict[str, Any], **more: Any) -> tuple[Chain, Work]:
    kind = KINDS[step["method"]]
    given = {key: value for key, value in step.items() if key != "method"}
    work = Work(2)
    chain = build_chain(Config(auth=AuthSettings(chain=(kind(**{**given, **more}),))), work, Facts())
    assert chain is not None
    return chain, work


def ask(step: dict[str, Any], *shown: tuple[str | None, bytes | None], **more: Any) -> list[Authentication | None]:
    """The answers for these users and passwords."""

    async def story() -> list[Authentication | None]:
        chain, work = chain_of(step, **more)
        try:
            return [
                await chain.authenticate(
                    Credentials(client_id="c1", username=user, password=password, peer="10.0.0.1:5", version=5)
                )
                for user, password in shown
            ]
        finally:
            await chain.close()
            work.close()

    return asyncio.run(story())


def reasons(answers: list[Authentication | None]) -> list[int | None]:
    return [None if each is None else int(each.reason) for each in answers]


OK, BAD, DOWN = 0, 0x86, 0x88


def test_users_and_passwords(database: tuple[Server, dict[str, Any]]) -> None:
    _, step = database
    answers = ask(
        step, ("ada", b"secret"), ("ada", b"wrong"), ("ada", None), ("nobody", b"secret"), (None, b"secret"),
        ("root", b"secret"), ("", b""), ("ada' OR '1'='1", b"secret"), ("ada\\", b"secret"), ("*", b"secret"),
        hash="sha256",
    )  # fmt: skip
    assert reasons(answers) == [OK, BAD, BAD, None, None, OK, None, None, None, None]
    ada, root = answers[0], answers[5]
    assert ada is not None
    assert root is not None
    assert ada.rules[0] == AccessRule(topic="up/${clientid}", action="publish", qos=(1,), retain=False)
    assert (root.superuser, root.rules) == (True, ())


def test_what_is_broken_in_it_refuses(database: tuple[Server, dict[str, Any]]) -> None:
    _, step = database
    assert reasons(ask(step, ("broken", b"secret"), ("ada", b"secret"), hash="sha256")) == [DOWN, OK]
    wrong = step["url"].replace(PASSWORD, "wr0ng")
    assert reasons(ask(step, ("ada", b"secret"), url=wrong, hash="sha256")) == [DOWN]


def test_a_query_that_is_wrong_refuses() -> None:
    with postgresql() as (_, step):
        assert reasons(ask(step, ("ada", b"secret"), query="SELECT nonsense", hash="sha256")) == [DOWN]
        many = "SELECT 'allow' AS permission, 'all' AS action, 'a' AS topic FROM generate_series(1, 1001)"
        assert reasons(ask(step, ("ada", b"secret"), acl_query=many, hash="sha256")) == [DOWN]


def test_a_server_that_hangs_dies_and_comes_back(database: tuple[Server, dict[str, Any]]) -> None:
    server, step = database
    chain = json.dumps([{**step, "hash": "sha256", "timeout_s": 1.0}])
    with running_broker({"auth.chain": chain, "auth.allow_anonymous": False}) as broker, ExitStack() as clients:

        def connects(name: str = "new") -> int:
            made = Client((broker.host, broker.port))
            clients.callback(made.close)
            made.connect(name, username="ada", password=b"secret")
            assert made.connack is not None
            if name == "inside":
                clients.inside = made  # type: ignore[attr-defined]
            return made.connack.code

        assert connects("inside") == 0
        inside: Client = clients.inside  # type: ignore[attr-defined]
        assert inside.publish("up/inside", qos=1) == 0x10
        assert inside.publish("up/other", qos=1) == 0x87
        server.freeze()
        try:
            start = time.monotonic()
            assert connects() == DOWN
            assert time.monotonic() - start < 3
            assert inside.publish("up/inside", qos=1) == 0x10
        finally:
            server.thaw()
        await_condition(lambda: connects() == 0, 20, "it comes back after it hung")
        server.kill()
        assert connects() == DOWN
        assert inside.publish("up/inside", qos=1) == 0x10
        server.start()
        if step["method"] == "redis":  # it keeps nothing in these tests
            servers.redis_do(server, "HSET", "mqtt_user:ada", "password_hash", HASH, "salt", "salt")
        await_condition(lambda: connects() == 0, 30, "it comes back after it died")
        assert PASSWORD not in broker.log_text()
        assert "secret" not in broker.log_text().replace(PASSWORD, "")


# -- the directory -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory() -> Iterator[tuple[Server, str, Path]]:
    with servers.slapd(ENTRIES) as found:
        yield found


BIND = {"bind_dn": "uid=${username},ou=people,dc=example,dc=org"}
SEARCH = {
    "search_base": "ou=people,dc=example,dc=org",
    "search_filter": "(&(objectClass=inetOrgPerson)(uid=${username}))",
}


@pytest.mark.parametrize("how", [BIND, SEARCH], ids=["bind", "search"])
@pytest.mark.parametrize("security", ["none", "start_tls", "ldaps"])
def test_the_directory(directory: tuple[Server, str, Path], how: dict[str, Any], security: str) -> None:
    _, url, folder = directory
    step = {"method": "ldap", "url": (folder / "ldaps").read_text() if security == "ldaps" else url, **how}
    more = {} if security == "none" else {"ca": str(folder / "ca.pem"), "start_tls": security == "start_tls"}
    answers = ask(
        step, ("ada", b"secret"), ("ada", b"wrong"), ("ada", b""), ("ada", None), ("ada", b"\xff"), (None, b"x"),
        ("root", b"secret"), ("a*b", b"secret"), superuser_filter="(employeeType=admin)", **more,
    )  # fmt: skip
    assert reasons(answers) == [OK, BAD, BAD, BAD, BAD, None, OK, OK]
    assert [each is not None and each.superuser for each in answers] == [False] * 6 + [True, False]
    stranger = ask(step, ("nobody", b"secret"), ("*", b"secret"), ("a*", b"secret"), ("ada)(uid=*", b"secret"), **more)
    assert all(each in ([BAD, None][how is SEARCH :]) for each in reasons(stranger))


def test_the_directory_must_prove_who_it_is(directory: tuple[Server, str, Path], tmp_path: Path) -> None:
    from tests.brokerdoors import issue

    _, url, folder = directory
    issue(tmp_path)
    for where in (url, (folder / "ldaps").read_text()):
        step = {"method": "ldap", "url": where, **BIND}
        more = {"ca": str(tmp_path / "ca.pem"), "start_tls": where == url}
        assert reasons(ask(step, ("ada", b"secret"), **more)) == [DOWN]


def test_a_directory_that_hangs_or_is_not_there_refuses(directory: tuple[Server, str, Path]) -> None:
    server, url, _ = directory
    step = {"method": "ldap", "url": url, **BIND, "timeout_s": 1.0}
    server.freeze()
    try:
        assert reasons(ask(step, ("ada", b"secret"))) == [DOWN]
    finally:
        server.thaw()
    assert reasons(ask(step, ("ada", b"secret"))) == [OK]
    searcher = {"search_base": "dc=example,dc=org", "search_dn": "cn=admin,dc=example,dc=org"}
    for password, expected in ((PASSWORD, OK), ("wrong", DOWN)):
        given = {"method": "ldap", "url": url, **searcher, "search_password": password}
        assert reasons(ask(given, ("ada", b"secret"))) == [expected]


def test_a_directory_that_is_not_there_refuses() -> None:
    assert reasons(ask({"method": "ldap", "url": "ldap://127.0.0.1:1", **BIND}, ("ada", b"secret"))) == [DOWN]
    gc.collect()  # a socket that was left open would be told here


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ({"method": "postgresql"}, "url: must be set"),
        ({"method": "postgresql", "url": "mysql://a"}, "url: must begin with postgresql:// or postgres://"),
        ({"method": "mysql", "url": "mysql://"}, "url: needs a host"),
        ({"method": "mysql", "url": "mysql://u:secret@h:x/"}, "url: is no address"),
        ({"method": "postgresql", "url": "postgres://h", "query": "SELECT ${user}"}, "query: ${user} is unknown"),
        ({"method": "postgresql", "url": "postgres://h", "query": "x = '${username}'"}, "query: needs no quotes"),
        ({"method": "redis", "url": "redis://h", "key": ""}, "key: must be set"),
        ({"method": "redis", "url": "redis://h", "hash": "rot13"}, "hash: must be one of"),
        ({"method": "mongodb", "url": "mongodb://h"}, "url: must begin with mongodb:// or"),
        ({"method": "mongodb", "url": "mongodb://u:secret@h/"}, "url: must begin with mongodb:// or"),
        ({"method": "mongodb", "url": "mongodb://h/d", "filter": "{username}"}, "filter: must be a JSON object"),
        ({"method": "mongodb", "url": "mongodb://h/d", "filter": '"${username}"'}, "filter: must be a JSON object"),
        ({"method": "mongodb", "url": "mongodb://h/d", "acl_filter": '{"a": "${user}"}'}, "acl_filter: ${user} is"),
        ({"method": "mongodb", "url": "mongodb://u:secret@h:x/d"}, " url is no address of a MongoDB database"),
        ({"method": "ldap", "url": "ldap://h"}, "bind_dn: must be set, or else search_base"),
        ({"method": "ldap", "url": "ldaps://h", "bind_dn": "x", "start_tls": True}, "start_tls: is for ldap://"),
        ({"method": "ldap", "url": "http://h", "bind_dn": "x"}, "url: must begin with ldap:// or ldaps://"),
    ],
)
def test_settings_that_cannot_be(step: dict[str, object], says: str) -> None:
    with pytest.raises(RuntimeError) as refused, running_broker({"auth.chain": json.dumps([step])}):
        pass
    assert f"auth.chain[0]{'' if says.startswith(' ') else '.'}{says}".replace("] ", "]: ") in str(refused.value)
    assert "secret" not in str(refused.value)
