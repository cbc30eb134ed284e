"""`fastmq pub` and `fastmq sub` against both brokers, and beside mosquitto_pub and mosquitto_sub."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastmq.cli import main
from tests.brokerproc import BrokerProcess, running_broker
from tests.interop.fastmq_clients import (
    FASTMQ,
    RunningSub,
    environment,
    mosquitto_pub,
    mosquitto_sub,
    printed,
    pub,
    sub,
)

VERSIONS = ["mqttv31", "311", "5"]
PROPERTIES = [
    *("-D", "publish", "user-property", "k", "v1"),
    *("-D", "publish", "user-property", "k", "v 2"),
    *("-D", "publish", "content-type", "text/plain"),
    *("-D", "publish", "response-topic", "answer/here"),
    *("-D", "publish", "correlation-data", "c-1"),
    *("-D", "publish", "payload-format-indicator", "1"),
    *("-D", "publish", "message-expiry-interval", "5000"),
]


@pytest.fixture(scope="module", params=["fastmq", "mosquitto"])
def server(request: pytest.FixtureRequest) -> Iterator[BrokerProcess]:
    with running_broker(kind=request.param) as process:
        yield process


@pytest.fixture(scope="module")
def mosquitto() -> Iterator[BrokerProcess]:
    """For what compares programs: which broker is between them does not matter."""
    with running_broker(kind="mosquitto") as process:
        yield process


def without_time(text: bytes) -> bytes:
    """Without the seconds that pass between two programs: the time of arrival, and what is left of the expiry."""
    text = re.sub(rb'"tst":(\t?)"[^"]+"', rb'"tst":\1""', text)
    text = re.sub(rb"T\d\d:\d\d:\d\d", b"T", text)
    return re.sub(rb"49[89]\d", b"5000", text)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_pub_and_sub_exchange_messages(server: BrokerProcess, topic: str, version: str, qos: int) -> None:
    with RunningSub(server, "-V", version, "-q", qos, "-t", topic + "/#", "-v", "-C", 3) as subscriber:
        printed(pub(server, "-V", version, "-q", qos, "-t", topic + "/a", "-m", "ours"))
        printed(mosquitto_pub(server, "-V", version, "-q", qos, "-t", topic + "/b", "-m", "theirs"))
        printed(pub(server, "-V", version, "-q", qos, "-t", topic + "/c", "-n"))
        assert subscriber.lines(3) == [f"{topic}/a ours", f"{topic}/b theirs", f"{topic}/c (null)"]
        assert subscriber.process.wait(10) == 0


FORMATS = {
    "payload": ["-F", "%p|%l|%x|%X|%%|@@|a b"],
    "message": ["-F", r"%t %q %r %m\t\\ \a\e\r\v\0|"],
    "properties": ["-F", "C%C D%D E%E F%F P%P R%R S%S A%A|"],
    "padded": ["-F", "[%30t][%-30t][%10.4t][%-10.4t][%08l][%-8l][%8l][%12p][%-12p][%012p][%6m][%06m]"],
    "padded properties": ["-F", "[%20C][%-20C][%5.3C][%08E][%-8E][%4F][%04F][%6S][%06S]"],
    "time": ["-F", "@Y-@m-@d @H @j %I"],
    "JSON": ["-F", "%j"],
    "JSON in JSON": ["-F", "%J"],
    "pretty JSON": ["-F", "%j", "--pretty"],
    "pretty JSON in JSON": ["-F", "%J", "--pretty"],
    "verbose": ["-v"],
    "without newline": ["-N"],
    "verbose without newline": ["-v", "-N"],
    "payload only": [],
}


@pytest.mark.parametrize("shape", FORMATS)
@pytest.mark.parametrize("version", ["311", "5"])
def test_sub_prints_what_mosquitto_sub_prints(mosquitto: BrokerProcess, topic: str, version: str, shape: str) -> None:
    payloads, where = ['"text"', "12"], topic
    if shape != "padded":  # mosquitto_sub cuts payloads at their least width, and pads by bytes where we do by letters
        payloads.append('{"b":[1,{"x":null,"y":[]}],"a":"é\\n","n":-1.5,"t":true,"o":{}}')
        where = topic + "/é"
    given = PROPERTIES if version == "5" else []
    for number, payload in enumerate(payloads):
        printed(
            mosquitto_pub(mosquitto, "-V", version, "-r", "-q", 1, "-t", f"{where}/{number}", "-m", payload, *given)
        )
    identifier = ["-D", "subscribe", "subscription-identifier", "77"] if version == "5" else []
    asked = ["-V", version, "-q", "1", "-t", topic + "/#", *identifier, "-W", "5", "-C", str(len(payloads))]
    before = printed(mosquitto_sub(mosquitto, *asked, *FORMATS[shape]))
    ours = printed(sub(mosquitto, *asked, *FORMATS[shape]))
    after = printed(mosquitto_sub(mosquitto, *asked, *FORMATS[shape]))
    assert without_time(ours) in (without_time(before), without_time(after))  # the hour may end between the two


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("source", ["-m", "-f", "-s", "-l", "-n"])
def test_pub_sends_what_mosquitto_pub_sends(
    mosquitto: BrokerProcess, topic: str, tmp_path: Path, version: str, source: str
) -> None:
    text = {"-m": "- ä\n", "-l": "line 1\n\nlüne 3\nlast"}.get(source, "line 1\n\0last")
    file = tmp_path / "payload"
    file.write_bytes(text.encode())
    args = {"-m": ["-m", text], "-f": ["-f", str(file)]}.get(source, [source])
    given = PROPERTIES if version == "5" else []
    shown = []
    for program in (pub, mosquitto_pub):
        count = 4 if source == "-l" else 1
        with RunningSub(mosquitto, "-V", version, "-q", 2, "-t", topic, "-F", "%x %q %r %j", "-C", count) as subscriber:
            printed(program(mosquitto, "-V", version, "-q", 1, "-t", topic, *args, *given, stdin=text.encode()))
            shown.append(without_time("\n".join(subscriber.lines(count)).encode()))
    assert shown[0] == shown[1]


def test_pub_repeats(server: BrokerProcess, topic: str) -> None:
    with RunningSub(server, "-t", topic, "-C", 3) as subscriber:
        printed(pub(server, "-t", topic, "-m", "again", "--repeat", 3, "--repeat-delay", "0.01"))
        assert subscriber.lines(3) == ["again"] * 3


def test_pub_sends_thousands_of_lines_in_order(server: BrokerProcess, topic: str) -> None:
    lines = [f"line {n}" for n in range(3000)]
    with RunningSub(server, "-t", topic, "-q", 2, "-C", len(lines)) as subscriber:
        printed(pub(server, "-t", topic, "-q", 2, "-l", stdin="\n".join(lines).encode()))
        assert subscriber.lines(len(lines)) == lines


def test_pub_sends_a_line_as_soon_as_it_is_there(server: BrokerProcess, topic: str) -> None:
    with RunningSub(server, "-t", topic) as subscriber:
        publisher = subprocess.Popen(
            [*FASTMQ, "pub", "-h", server.host, "-p", str(server.port), "-t", topic, "-l"],
            stdin=subprocess.PIPE,
            env=environment(),
        )
        assert publisher.stdin is not None
        publisher.stdin.write(b"first\nsec")
        publisher.stdin.flush()
        assert subscriber.lines(1) == ["first"]
        publisher.stdin.write(b"ond\n")
        publisher.stdin.flush()
        assert subscriber.lines(2) == ["first", "second"]
        publisher.stdin.close()
        assert publisher.wait(10) == 0


def test_retained_messages_are_set_cleared_and_told_apart(server: BrokerProcess, topic: str) -> None:
    for name in "abc":
        printed(pub(server, "-r", "-t", f"{topic}/{name}", "-m", name))
    printed(pub(server, "-r", "-t", f"{topic}/b", "-n"))
    everything = ["-t", topic + "/#", "-v", "-W", "1.5"]
    assert sub(server, *everything, "-R").stdout == b""
    seen = sub(server, *everything, "-T", f"{topic}/a", "--remove-retained")
    assert seen.stdout.decode() == f"{topic}/c c\n{topic}/c (null)\n"  # what clears it comes back, as a fresh message
    assert seen.returncode == 27
    assert sub(server, *everything).stdout.decode() == f"{topic}/a a\n"


def test_retained_only_stops_at_the_first_that_is_not(server: BrokerProcess, topic: str) -> None:
    printed(pub(server, "-r", "-t", topic, "-m", "old"))
    with RunningSub(server, "-t", topic, "--retained-only") as subscriber:
        assert subscriber.lines(1) == ["old"]
        printed(pub(server, "-t", topic, "-m", "new"))
        assert subscriber.process.wait(10) == 0
        assert subscriber.lines(1) == ["old"]


def test_a_tree_of_retained_messages_is_cleared_whole(server: BrokerProcess, topic: str) -> None:
    for number in range(30):
        printed(mosquitto_pub(server, "-r", "-t", f"{topic}/{number}", "-m", "x"))
    clear = ["-t", topic + "/#", "--remove-retained", "--retained-only", "-T", f"{topic}/7"]
    assert printed(sub(server, *clear, "-W", 10)) == b"x\n" * 29
    assert sub(server, "-t", topic + "/#", "-v", "-W", "1.5").stdout.decode() == f"{topic}/7 x\n"


def test_retain_as_published_needs_no_version(server: BrokerProcess, topic: str) -> None:
    with RunningSub(server, "-t", topic, "--retain-as-published", "-F", "%r", "-C", 2) as subscriber:
        printed(pub(server, "-r", "-t", topic, "-m", "x"))
        printed(pub(server, "-t", topic, "-m", "x"))
        assert subscriber.lines(2) == ["1", "0"]


def test_a_timeout_ends_with_27(server: BrokerProcess, topic: str) -> None:
    done = sub(server, "-t", topic, "-W", "0.2")
    assert (done.returncode, done.stdout, done.stderr) == (27, b"", b"Timed out\n")
    assert sub(server, "-t", topic, "-W", "0.2", "--quiet").stderr == b""


def test_a_session_lasts_and_gets_what_it_missed(server: BrokerProcess, topic: str) -> None:
    for version in VERSIONS:
        me = ["-V", version, "-i", f"{topic[-8:]}-{version}", "-c", "-q", "1", "-t", f"{topic}/{version}"]
        printed(sub(server, *me, "-E"))
        printed(pub(server, "-q", 1, "-t", f"{topic}/{version}", "-m", "missed"))
        assert printed(sub(server, *me, "-C", 1, "-W", 5)) == b"missed\n"


def test_unsubscribe_ends_a_lasting_subscription(server: BrokerProcess, topic: str) -> None:
    me = ["-i", topic[-8:], "-c", "-q", "1"]
    printed(sub(server, *me, "-t", topic, "-E"))
    printed(sub(server, *me, "-U", topic, "-E"))
    printed(pub(server, "-q", 1, "-t", topic, "-m", "nobody wants it"))
    assert sub(server, *me, "-t", topic + "/other", "-W", "0.5").stdout == b""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_will_is_published_when_sub_is_killed_and_not_when_it_leaves(
    server: BrokerProcess, topic: str, version: str
) -> None:
    will = ["--will-topic", f"{topic}/will", "--will-payload", "gone", "--will-qos", "1", "--will-retain"]
    with RunningSub(server, "-t", f"{topic}/will", "-F", "%p %q %r", "-q", 1, "-C", 1) as watcher:
        with RunningSub(server, "-V", version, "-t", topic, *will) as leaver:
            assert leaver.end(signal.SIGINT) == 0
        with RunningSub(server, "-V", version, "-t", topic, *will) as leaver:
            assert leaver.end(signal.SIGTERM) == 0
        assert watcher.out.lines() == []
        with RunningSub(server, "-V", version, "-t", topic, *will) as victim:
            victim.end(signal.SIGKILL)
        assert watcher.lines(1) == ["gone 1 0"]
    assert printed(sub(server, "-t", f"{topic}/will", "-F", "%p %r", "-C", 1)) == b"gone 1\n"
    printed(pub(server, "-t", f"{topic}/will", "-r", "-n"))


def test_an_ended_reader_ends_sub_quietly(server: BrokerProcess, topic: str) -> None:
    with RunningSub(server, "-t", topic) as subscriber:
        assert subscriber.process.stdout is not None
        printed(pub(server, "-t", topic, "-m", "1"))
        assert subscriber.lines(1) == ["1"]
    command = f"{' '.join(FASTMQ)} sub -h {server.host} -p {server.port} -t {topic}/r | head -n 1"
    printed(pub(server, "-r", "-t", f"{topic}/r", "-m", "x" * 100))
    with RunningSub(server, "-t", f"{topic}/r"):
        shell = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"x" * 100 + b"\n"
        # The reader is gone now; the next messages find a closed pipe.
        while shell.poll() is None:
            printed(pub(server, "-t", f"{topic}/r", "-m", "more"))
        assert shell.stderr is not None
        assert shell.stderr.read() == b""
        assert shell.returncode == 0
        shell.stdout.close()
        shell.stderr.close()


def test_a_refused_connection_ends_with_the_brokers_code(server: BrokerProcess, topic: str) -> None:
    empty_id = ["-V", "311", "-c", "-i", ""]  # [MQTT-3.1.3-8]
    for program in (pub(server, "-t", topic, "-m", "x", *empty_id), sub(server, "-t", topic, *empty_id)):
        assert program.returncode == 2
        assert program.stderr == b"Connection error: connection refused: identifier rejected (0x02)\n"


def test_nobody_listens() -> None:
    for args in (["pub", "-m", "x"], ["sub"]):
        done = subprocess.run(
            [*FASTMQ, *args, "-h", "127.0.0.1", "-p", "1", "-t", "a"], capture_output=True, env=environment()
        )
        assert done.returncode == 1
        assert done.stderr.startswith(b"Error: cannot connect")


def test_a_url_says_it_all(server: BrokerProcess, topic: str) -> None:
    url = f"mqtt://user:p%40ss@{server.host}:{server.port}/{topic}"
    words = [*FASTMQ, "pub", "-L", url, "-r", "-m", "by url"]
    assert subprocess.run(words, env=environment(), timeout=10).returncode == 0
    assert printed(mosquitto_sub(server, "-t", topic, "-C", 1, "-W", 5)) == b"by url\n"


def test_debug_shows_every_packet(server: BrokerProcess, topic: str) -> None:
    done = pub(server, "-V", "5", "-d", "-i", "me", "-q", 2, "-t", topic, "-m", "abc")
    shown = [line.split(" (")[0] for line in done.stderr.decode().splitlines()]
    assert shown == [
        "Client me sending CONNECT",
        "Client me received CONNACK",
        "Client me sending PUBLISH",
        "Client me received PUBREC",
        "Client me sending PUBREL",
        "Client me received PUBCOMP",
        "Client me sending DISCONNECT",
    ]


MISTAKES = {
    "pub without topic": (["pub", "-m", "x"], "Say with -t where to publish."),
    "pub without message": (["pub", "-t", "a"], "one of -m, -f, -l, -s and -n"),
    "pub with two messages": (["pub", "-t", "a", "-m", "x", "-n"], "one of -m, -f, -l, -s and -n"),
    "pub to a filter": (["pub", "-t", "a/#", "-m", "x"], "a topic name has no wildcards"),
    "sub without topic": (["sub"], "Say with -t what to subscribe to."),
    "sub to no filter": (["sub", "-t", "a/#/b"], "'#' is allowed only as the last level"),
    "QoS 3": (["sub", "-t", "a", "-q", "3"], "3 is not in the range 0<=x<=2"),
    "an unknown version": (["sub", "-t", "a", "-V", "6"], "none of 31, 311, 5"),
    "an unknown format": (["sub", "-t", "a", "-F", "%d"], "Invalid format specifier 'd'."),
    "an unfinished format": (["sub", "-t", "a", "-F", "100%"], "Incomplete format specifier."),
    "an unknown escape": (["sub", "-t", "a", "-F", r"\q"], "Invalid escape specifier 'q'."),
    "two client ids": (["sub", "-t", "a", "-i", "x", "-I", "y"], "-i and -I cannot be used together."),
    "a lasting session without id": (["sub", "-t", "a", "-c"], "needs a client id"),
    "a password without user name": (["pub", "-t", "a", "-n", "-P", "x", "-V", "311"], "-P needs -u before MQTT 5."),
    "a will without topic": (["pub", "-t", "a", "-n", "--will-payload", "x"], "A will needs --will-topic."),
    "a will to a filter": (["pub", "-t", "a", "-n", "--will-topic", "#"], "a topic name has no wildcards"),
    "-D unfinished": (["pub", "-t", "a", "-n", "-D", "publish", "topic-alias"], "-D needs a packet"),
    "-D for no packet": (["pub", "-t", "a", "-n", "-D", "x", "topic-alias", "1"], "no packet 'x'"),
    "-D with no property": (["pub", "-t", "a", "-n", "-D", "publish", "x", "1"], "no property 'x'"),
    "-D foreign": (["pub", "-t", "a", "-n", "-D", "publish", "receive-maximum", "1"], "does not belong into publish"),
    "-D no number": (["pub", "-t", "a", "-n", "-D", "publish", "topic-alias", "x"], "must be a number from 0 to 65535"),
    "-D half a pair": (["pub", "-t", "a", "-n", "-D", "publish", "user-property", "x"], "needs a name and a value"),
    "-D before MQTT 5": (
        ["pub", "-t", "a", "-n", "-V", "311", "-D", "will", "will-delay-interval", "1"],
        "needs MQTT 5",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_and_ends_with_2(mistake: str) -> None:
    words, said = MISTAKES[mistake]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize("command", ["pub", "sub"])
def test_help_is_long_and_h_is_the_host(command: str) -> None:
    done = subprocess.run([*FASTMQ, command, "--help"], capture_output=True, env=environment(), timeout=10)
    assert done.returncode == 0
    for option in (b"-h, --host", b"--will-topic", b"-D, --property", b"-V, --protocol-version"):
        assert option in done.stdout
    done = subprocess.run([*FASTMQ, command, "-h"], capture_output=True, env=environment(), timeout=10)
    assert b"requires an argument" in done.stderr


def test_options_and_values_that_look_alike_are_told_apart(server: BrokerProcess, topic: str) -> None:
    printed(pub(server, "-r", "-t", topic, "-m", "-D"))
    assert printed(sub(server, "-t", topic, "-C", 1, "-W", 5)) == b"-D\n"
