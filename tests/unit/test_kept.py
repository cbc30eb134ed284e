"""Users and bans in the broker's store: changed by commands beside a running broker, and there after a crash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from fastmq.auth import hashes
from fastmq.auth.users import KeptUser, user_of
from fastmq.broker.banning import TIDY_S, Banning
from fastmq.broker.bans import stored
from fastmq.broker.facts import MEMORY_MAX_BYTES, Facts
from fastmq.cli import main
from fastmq.config import bans
from fastmq.config.schema import BanSettings, Config
from fastmq.contracts import AccessRule, Authentication, Credentials
from fastmq.errors import StoreError
from fastmq.store.facts import change_beside, read_beside
from fastmq.testing import BackgroundBroker
from tests.brokerproc import BrokerProcess, await_condition, ended_cleanly, start_fastmq
from tests.wireclient import Client

BANNED, BAD, NOT_AUTHORIZED, KICKED = 0x8A, 0x86, 0x87, 0x98
FAST = hashes.make(b"secret", "sha512-pbkdf2", 1000)


def run(*words: str | Path, stdin: str = "") -> Result:
    return CliRunner().invoke(main, list(map(str, words)), input=stdin, prog_name="fastmq")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def kept(path: Path) -> Any:
    """Runs a command on the store; gives what it prints."""

    def do(*words: str | Path, stdin: str = "") -> str:
        result = run(*words, "--store", path, stdin=stdin)
        assert result.exit_code == 0, result.output
        return result.stdout

    return do


def started(path: Path, **settings: Any) -> BrokerProcess:
    return start_fastmq({"store.path": str(path), **settings})


@contextmanager
def killed(broker: BrokerProcess) -> Iterator[BrokerProcess]:
    """At the end of the block, as a crash would."""
    try:
        yield broker
        broker.assert_healthy()
    finally:
        broker.kill()


def code(broker: BrokerProcess, clients: ExitStack, name: str, user: str | None, password: bytes | None) -> int:
    client = Client((broker.host, broker.port))
    clients.callback(client.close)
    return client.connect(name, username=user, password=password).code


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# -- users -------------------------------------------------------------------------------------------------------------

CHAIN = {"auth.chain": json.dumps([{"method": "builtin"}]), "auth.allow_anonymous": False}


def test_users_come_and_go_while_the_broker_runs(kept: Any, path: Path, clients: ExitStack) -> None:
    kept("users", "add", "ada", "--hash", FAST, "-g", "eng", "-r", "allow publish up/${clientid}", "-r", "deny all #")
    with killed(started(path, **CHAIN)) as broker:

        def connects(user: str | None, password: bytes | None = b"secret") -> int:
            return code(broker, clients, "c1", user, password)

        assert [connects("ada"), connects("ada", b"wrong"), connects("ada", None)] == [0, BAD, BAD]
        assert [connects("eve"), connects(None), connects("user/ada")] == [BAD, NOT_AUTHORIZED, BAD]
        client = Client((broker.host, broker.port))
        clients.callback(client.close)
        assert client.connect("c1", username="ada", password=b"secret").code == 0
        assert client.publish("up/c1", qos=1) == 0x10
        assert client.publish("up/c2", qos=1) == NOT_AUTHORIZED
        kept("users", "add", "eve", "--superuser", stdin="her secret\n")
        await_condition(lambda: connects("eve", b"her secret") == 0)
        kept("users", "add", "ada", "--hash", hashes.make(b"new", "sha512-pbkdf2", 1000))
        await_condition(lambda: connects("ada", b"new") == 0)
        assert connects("ada") == BAD
        kept("users", "delete", "ada")
        await_condition(lambda: connects("ada", b"new") == BAD)
        assert "secret" not in broker.log_text()
    with ended_cleanly(started(path, **CHAIN)) as broker:
        assert code(broker, clients, "c1", "eve", b"her secret") == 0
        assert code(broker, clients, "c1", "ada", b"new") == BAD


def test_users_by_client_identifier(kept: Any, path: Path, clients: ExitStack) -> None:
    kept("users", "add", "sensor-7", "--hash", FAST)
    chain = json.dumps([{"method": "builtin", "user_id": "client_id"}])
    with ended_cleanly(started(path, **{**CHAIN, "auth.chain": chain})) as broker:
        assert code(broker, clients, "sensor-7", "whoever", b"secret") == 0
        assert code(broker, clients, "sensor-8", "sensor-7", b"secret") == BAD


def test_what_is_no_user_lets_nobody_in(kept: Any, path: Path, clients: ExitStack) -> None:
    facts = [b"", b"[]", b"{}", b'{"password_hash": 5}', b'{"password_hash": "x"}']
    facts += [orjson.dumps({"password_hash": FAST, "acl": [{"topic": "a#"}]}), b"\xff"]
    change_beside(path, {f"user/u{at}": fact for at, fact in enumerate(facts)})
    with ended_cleanly(started(path, **CHAIN)) as broker:
        for at in range(len(facts)):
            assert code(broker, clients, "c1", f"u{at}", b"secret") in (0x88, BAD)
        assert broker.log_text().count("a step of authentication failed") >= 1


def test_a_user_is_what_was_stored_of_it() -> None:
    rules = (
        AccessRule(topic="a/${clientid}", allow=False, action="publish", qos=(0, 2), retain=True),
        AccessRule(topic="#"),
    )
    for user in (
        KeptUser(password_hash="x"),
        KeptUser(password_hash="x", superuser=True, groups=("a", "b c"), rules=rules),
    ):
        assert user_of(user.fact()) == user
    assert "hunter2" not in repr(KeptUser(password_hash="hunter2"))


def test_the_list_has_no_passwords(kept: Any) -> None:
    kept("users", "add", "ada", "-P", "secret", "--superuser", "-g", "a", "-g", "b")
    kept("bans", "add", "client_id", "x")
    assert kept("users", "list") == "ada  superuser  groups: a, b\n"
    assert json.loads(kept("users", "list", "--json")) == {"user": "ada", "is_superuser": True, "groups": ["a", "b"]}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["users", "add", "a", "--hash", "x"], "the hash is no hash"),
        (["users", "add", "a", "-P", ""], "an empty password is none"),
        (["users", "add", "a", "-P", "x", "-r", "allow"], "must be like 'allow publish up/#'"),
        (["users", "add", "a", "-P", "x", "-r", "permit all #"], "permission of a rule must be allow or deny"),
        (["users", "add", "a", "-P", "x", "-r", "allow all a#"], "a#"),
        (["users", "delete", "a"], "there is no user a"),
        (["bans", "add", "address", "1.2.3"], "value"),
        (["bans", "add", "client_id", ""], "value must not be empty"),
        (["bans", "add", "username_regex", "("], "is no regular expression"),
        (["bans", "add", "client_id", "x", "--for", "soon"], "--for must be like 90s"),
        (["bans", "add", "client_id", "x", "--until", "soon"], "until must be a time like"),
        (["bans", "add", "client_id", "x", "--for", "1h", "--until", "2027-01-31"], "two ways to say the same"),
        (["bans", "delete", "client_id", "x"], "there is no ban by client_id of x"),
    ],
)
def test_wrong_words_are_told_and_change_nothing(path: Path, words: list[str], says: str) -> None:
    result = run(*words, "--store", path)
    assert result.exit_code == 1
    assert says in result.output
    assert read_beside(path) == {}


# -- bans --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "value"),
    [
        ("client_id", "c1"), ("username", "ada"), ("address", "127.0.0.0/8"), ("client_id_regex", "c[0-9]"),
        ("username_regex", "a.*"),
    ],
)  # fmt: skip
def test_who_is_banned_is_disconnected_and_stays_out(
    kept: Any, path: Path, clients: ExitStack, by: str, value: str
) -> None:
    with killed(started(path)) as broker:
        inside = Client((broker.host, broker.port))
        clients.callback(inside.close)
        assert inside.connect("c1", username="ada").code == 0
        if by != "address":
            other = Client((broker.host, broker.port))
            clients.callback(other.close)
            assert other.connect("other", username="bob").code == 0
        kept("bans", "add", by, value, "--reason", "noise", "--for", "1h")
        inside.expect_disconnect(KICKED)
        assert code(broker, clients, "c1", "ada", None) == BANNED
        if by != "address":
            other.ping()
        assert json.loads(kept("bans", "list", "--json"))["value"] == value
    with ended_cleanly(started(path)) as broker:
        assert code(broker, clients, "c1", "ada", None) == BANNED
        broker.await_log(f"banned by its {by}: noise")
        kept("bans", "delete", by, value)
        await_condition(lambda: code(broker, clients, "c1", "ada", None) == 0)


class Renaming:
    """Finds out that a client is another than it says."""

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        return Authentication(username="eve", client_id="e1")


@pytest.mark.parametrize("by", [{"by": "username", "value": "eve"}, {"by": "client_id", "value": "e1"}])
def test_a_ban_holds_for_who_the_client_turns_out_to_be(by: dict[str, str], clients: ExitStack) -> None:
    settings: dict[str, Any] = {"bans__rules": [by]}
    with BackgroundBroker(authenticators=[Renaming()], **settings) as broker:
        client = Client((broker.host, broker.port))
        clients.callback(client.close)
        assert client.connect("c1", username="ada").code == BANNED


def test_what_is_no_ban_is_told_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    facts = {
        "client_id/a": b"{}",
        "client_id/b": b'{"until": "2027-01-31T12:00:00Z", "reason": "x"}',
        "colour/red": b"{}",
        "client_id/c": b"[]",
        "client_id/d": b'{"until": "soon"}',
        "client_id/e": b'{"until": 5}',
        "address/x": b"{}",
        "client_id": b"{}",
    }
    assert [ban.value for ban in stored(facts)] == ["a", "b"]


def test_bans_that_have_ended_leave_the_store() -> None:
    async def story() -> list[str]:
        now = [0.0]
        facts = Facts()
        broker = BackgroundBroker()
        with broker:
            hub = broker._broker._running().hub
            await facts.put({"ban/client_id/a": b'{"until": "1970-01-01T00:00:30Z"}', "ban/client_id/b": b"{}"})
            banning = Banning(hub, BanSettings(rules=(bans.ClientId(value="s"),)), facts, lambda: now[0])
            assert banning.bans.banned("a", None, "") != ""
            for now[0] in (29.0, 31.0, TIDY_S):
                banning.tick()
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            await banning.close()
        return list(facts.under(""))

    assert asyncio.run(story()) == ["ban/client_id/b"]


# -- facts -------------------------------------------------------------------------------------------------------------


def test_facts_without_a_store_live_in_memory_and_are_bounded() -> None:
    async def story() -> None:
        facts, changes = Facts(), []
        facts.watch(lambda: changes.append(facts.version))
        await facts.put({"a": b"1", "b": b"2"})
        await facts.put({"a": None, "c": None})
        await facts.put({"b": b"2"})
        assert (facts.under(""), changes) == ({"b": b"2"}, [1, 2])
        with pytest.raises(StoreError, match="together"):
            await facts.put({"d": b"x" * MEMORY_MAX_BYTES})
        assert facts.get("d") is None

    asyncio.run(story())


def test_facts_that_cannot_be_stored_are_not_there() -> None:
    async def story() -> None:
        facts = Facts()
        facts.store_in(lambda changes, done: done(StoreError("full", "no room")))
        with pytest.raises(StoreError, match="no room"):
            await facts.put({"a": b"1"})
        assert facts.get("a") is None

    asyncio.run(story())


def test_the_default_settings_keep_nobody_out() -> None:
    assert Config().bans.rules == ()
