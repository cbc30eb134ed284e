"""Password files: their hashes, their lines, and a broker that asks them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq.auth import hashes, password_file
from fastmq.auth.build import build_chain
from fastmq.auth.chain import FAILURES_MAX, Chain, Step
from fastmq.auth.passwords import Passwords
from fastmq.auth.text_file import TextFileError
from fastmq.auth.work import Work
from fastmq.broker.facts import Facts
from fastmq.config.auth import PasswordFile
from fastmq.config.listener import Listener
from fastmq.config.schema import AuthSettings, Config
from fastmq.contracts import Authentication, Credentials
from fastmq.errors import ConfigError
from fastmq.reasons import Reason
from tests.brokerproc import running_broker

CHEAP = "sha512"


def credentials(password: bytes | None = b"secret", username: str | None = "ada", listener: str = "") -> Credentials:
    return Credentials(
        client_id="c", username=username, password=password, peer="127.0.0.1:1", version=5, listener=listener
    )


@pytest.mark.parametrize("kind", hashes.KINDS)
def test_a_hash_fits_its_password_only(kind: str) -> None:
    hash = hashes.make(b"secret", kind)
    assert hashes.verify(hash, b"secret")
    assert not hashes.verify(hash, b"secrets")
    assert not hashes.verify(hashes.nobodys(hash), b"secret")


@pytest.mark.parametrize("kind", ["sha512-pbkdf2", "sha512"])
def test_mosquitto_passwd_and_we_agree(tmp_path: Path, kind: str) -> None:
    theirs = tmp_path / "theirs"
    subprocess.run(["mosquitto_passwd", "-c", "-b", "-H", kind, str(theirs), "ada", "secret"], check=True)
    [(user, hash)] = password_file.read(theirs).items()
    assert user == "ada"
    assert hashes.verify(hash, b"secret")
    assert not hashes.verify(hash, b"Secret")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ada", "file:1: must be USER:HASH"),
        (":$6$a$b", "file:1: must be USER:HASH"),
        ("#x\nada:secret", "file:2: has a password in the clear"),
        ("ada:$5$x$y", "file:1: the hash of ada is no hash that is known here"),
        ("ada:$6$x", "file:1: the hash of ada must be $6$SALT$HASH"),
        ("ada:$6$!$!", "no base64"),
        ("ada:$7$0$YQ==$YQ==", "must have 1 to"),
        ("ada:$7$99999999999$YQ==$YQ==", "must be $7$ITERATIONS$SALT$HASH"),
        ("ada:$argon2id$v=19$m=999999999,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAA", "costs too much"),
        ("ada:$argon2id$v=19$m=0,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAA", "costs too much"),
        ("ada:$2b$31$" + "a" * 53, "bcrypt"),
    ],
)
def test_a_wrong_line_is_named(text: str, says: str) -> None:
    with pytest.raises(TextFileError) as refused:
        password_file.parse(text, "file")
    assert says in str(refused.value)


@given(st.text())
def test_any_text_is_users_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(TextFileError):
        password_file.parse("ada:" + text, "file")


class Scripted:
    """Answers what it is told to."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def authenticate(self, _: Credentials) -> Authentication | None:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == "hang":
            await asyncio.sleep(3600)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]


@pytest.mark.parametrize("trouble", ["hang", RuntimeError("no"), "garbage"])
def test_a_step_that_fails_refuses(trouble: object) -> None:
    answer = asyncio.run(Step("s", Scripted(trouble), timeout_s=0.01).ask(credentials()))
    assert answer is not None
    assert answer.reason == Reason.SERVER_UNAVAILABLE


def test_a_step_that_fails_often_is_left_alone_and_comes_back() -> None:
    now = [0.0]
    broken = Scripted(*[RuntimeError("down")] * FAILURES_MAX, Authentication())
    step = Step("s", broken, clock=lambda: now[0])

    async def story() -> None:
        for _ in range(FAILURES_MAX + 3):
            assert (await step.ask(credentials())).reason == Reason.SERVER_UNAVAILABLE  # type: ignore[union-attr]
        assert broken.asked == FAILURES_MAX
        now[0] = 60.0
        assert (await step.ask(credentials())).reason == Reason.SUCCESS  # type: ignore[union-attr]
        assert (await step.ask(credentials())).reason == Reason.SUCCESS  # type: ignore[union-attr]

    asyncio.run(story())


def test_answers_are_remembered_for_the_same_credentials_only() -> None:
    now = [0.0]
    asked = Scripted(Authentication())
    step = Step("s", asked, cache_ttl_s=10, clock=lambda: now[0])

    async def story() -> None:
        await step.ask(credentials(b"1"))
        await step.ask(credentials(b"1"))
        assert asked.asked == 1
        await step.ask(credentials(b"2"))
        await step.ask(credentials(None))
        assert asked.asked == 3
        now[0] = 11.0
        await step.ask(credentials(b"1"))
        assert asked.asked == 4

    asyncio.run(story())
    assert b"secret" not in repr(step).encode()


def test_a_listener_may_take_some_of_the_steps() -> None:
    first, second = Scripted(Authentication(why="first")), Scripted(Authentication(why="second"))
    chain = Chain([Step("a", first), Step("b", second)], {"inside": ["b"], "outside": []})
    for listener, expected in (("inside", "second"), ("outside", "first"), ("", "first")):
        answer = asyncio.run(chain.authenticate(credentials(listener=listener)))
        assert answer is not None
        assert answer.why == expected


def connects(port: int, *arguments: str) -> int:
    command = ["mosquitto_pub", "-p", str(port), "-t", "t", "-m", "x", "-q", "1", *arguments]
    return subprocess.run(command, capture_output=True, timeout=20).returncode


def test_serve_asks_the_password_file(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ada:{hashes.make(b'secret')}\nbob:{hashes.make(b'hunter2', CHEAP)}\n")
    chain = json.dumps([{"method": "file", "path": str(users)}])
    with running_broker({"auth.chain": chain, "auth.allow_anonymous": False}) as broker:
        for version in ("mqttv311", "mqttv5"):
            assert connects(broker.port, "-V", version, "-u", "ada", "-P", "secret") == 0
            assert connects(broker.port, "-V", version, "-u", "bob", "-P", "hunter2") == 0
            assert connects(broker.port, "-V", version, "-u", "ada", "-P", "wrong") != 0
            assert connects(broker.port, "-V", version, "-u", "eve", "-P", "secret") != 0
            assert connects(broker.port, "-V", version) != 0


def test_a_wrong_password_file_stops_the_start(tmp_path: Path) -> None:
    chain = json.dumps([{"method": "file", "path": str(tmp_path / "none")}])
    command = [sys.executable, "-m", "fastmq", "serve", "--listen", "tcp://127.0.0.1:0", "--set", f"auth.chain={chain}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert "auth.chain[0]" in ended.stderr
    assert "No such file" in ended.stderr


def test_a_password_that_was_taken_away_is_refused_at_once(tmp_path: Path) -> None:
    """Although the answer to it is remembered; and a file that becomes wrong leaves its users in."""
    users, now = tmp_path / "users", [0.0]
    users.write_text(f"ada:{hashes.make(b'secret', CHEAP)}\n")
    work = Work()
    step = Step("s", Passwords(users, work, lambda: now[0]), cache_ttl_s=300, clock=lambda: now[0])

    async def reason() -> Reason | None:
        answer = await step.ask(credentials())
        return None if answer is None else answer.reason

    async def story() -> None:
        assert await reason() == Reason.SUCCESS
        assert await reason() == Reason.SUCCESS
        users.write_text("ada:nonsense\n")
        now[0] = 2.0
        assert await reason() == Reason.SUCCESS
        users.write_text(f"ada:{hashes.make(b'other', CHEAP)}\n")
        now[0] = 4.0
        assert await asyncio.gather(*(reason() for _ in range(20))) == [Reason.BAD_USER_NAME_OR_PASSWORD] * 20
        users.write_text("")
        now[0] = 6.0
        assert await reason() is None

    asyncio.run(story())
    work.close()


def test_a_full_work_is_busy_and_breaks_nothing(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text(f"ada:{hashes.make(b'secret', CHEAP)}\n")
    work = Work(threads=1, waiting_max=2)
    step = Step("s", Passwords(users, work))

    async def story() -> None:
        answers = await asyncio.gather(*(step.ask(credentials()) for _ in range(20)))
        reasons = [answer.reason for answer in answers if answer is not None]
        assert set(reasons) == {Reason.SUCCESS, Reason.SERVER_BUSY}
        assert reasons.count(Reason.SUCCESS) >= 2
        answer = await step.ask(credentials())
        assert answer is not None
        assert answer.reason == Reason.SUCCESS

    asyncio.run(story())
    work.close()


@pytest.mark.parametrize(
    ("listen", "chain", "says"),
    [
        ((Listener("tcp", "a", 1, auth=("x",)),), (), "listen[0].auth: auth.chain has no working step x"),
        (
            (Listener("tcp", "a", 1, "n", ("file",)), Listener("tcp", "b", 1, "n")),
            ("users",),
            "listen[1].name: n is also the name of one with another `auth`",
        ),
        ((), ("users", "users"), "auth.chain[1].name: file is the name of another step, too"),
        ((), ("none",), "auth.chain[0]: "),
    ],
)
def test_a_chain_that_cannot_be_built_says_why(
    tmp_path: Path, listen: tuple[Listener, ...], chain: tuple[str, ...], says: str
) -> None:
    (tmp_path / "users").write_text("")
    steps = tuple(PasswordFile(path=str(tmp_path / name)) for name in chain)
    work = Work()
    with pytest.raises(ConfigError) as refused:
        build_chain(Config(listen=listen, auth=AuthSettings(chain=steps)), work, Facts())
    assert says in str(refused.value)
    work.close()
