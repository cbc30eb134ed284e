"""The bench tool itself: its generator must notice what a broker does wrong, and its runs must leave their line."""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import excerpt, load
from bench.results import FAULTS, Run, Summary, summarise
from bench.rivals import DURABLE, FASTMQ, RIVALS, running
from bench.run import BEGIN, END, compared, write_into
from bench.scenarios import SCENARIOS
from bench.table import grids

ROOT = Path(__file__).parent.parent.parent
MOSQUITTO = RIVALS["mosquitto"]
CONNECT, PUBLISH, SUBSCRIBE = 1, 3, 8


class LyingBroker(socketserver.ThreadingTCPServer):
    """Passes one publisher's QoS 0 messages on, but as `lies` says: number -> the numbers to pass on instead."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, lies: dict[int, list[int]]) -> None:
        self.lies = lies
        self.subscriber: socket.socket | None = None
        self.seen: dict[int, bytes] = {}
        super().__init__(("127.0.0.1", 0), Relay)


class Relay(socketserver.StreamRequestHandler):
    server: LyingBroker

    def handle(self) -> None:
        while head := self.rfile.read(2):
            body = self.rfile.read(head[1])
            kind = head[0] >> 4
            if kind == CONNECT:
                self.wfile.write(b"\x20\x02\x00\x00")
            elif kind == SUBSCRIBE:
                self.server.subscriber = self.connection
                self.wfile.write(b"\x90\x03" + body[:2] + b"\x00")
            elif kind == PUBLISH:
                self.relay(head + body)

    def relay(self, packet: bytes) -> None:
        (number,) = struct.unpack_from("=I", packet, len(packet) - 12)
        self.server.seen[number] = packet
        assert self.server.subscriber
        for wanted in self.server.lies.get(number, [number]):
            self.server.subscriber.sendall(self.server.seen[wanted])


@pytest.mark.parametrize(
    ("lies", "faults"),
    [
        ({}, {}),
        ({5: []}, {"lost": 1}),
        ({7: [7, 7]}, {"duplicate": 1}),
        ({9: [], 10: [10, 9]}, {"reordered": 1}),
        ({5: [], 6: [6, 6], 9: [], 11: [11, 9]}, {"lost": 1, "duplicate": 1, "reordered": 1}),
    ],
)
def test_generator_counts_what_a_broker_does_wrong(lies: dict[int, list[int]], faults: dict[str, int]) -> None:
    with LyingBroker(lies) as broker:
        threading.Thread(target=broker.serve_forever, args=(0.02,), daemon=True).start()
        figures = load.measure(
            ["pairs", "--rate", "200", "--duration", "0.2", "--warmup", "0"], port=broker.server_address[1]
        )
        broker.shutdown()
    assert int(figures["published"]) > 20
    assert {name: figures[name] for name in FAULTS if figures[name]} == faults


@pytest.fixture(scope="module")
def mosquitto_port() -> Iterator[int]:
    with running(MOSQUITTO) as broker:
        yield broker.port


@pytest.mark.parametrize("mqtt", ["4", "5"])
@pytest.mark.parametrize(
    "workload",
    [
        "pairs --pubs 3 --subs 3 --qos 0 --flight 100",
        "pairs --pubs 3 --subs 6 --qos 1",
        "pairs --qos 2 --size 300",
        "pairs --rate 2000 --qos 1",
        "fanout --subs 20 --flight 50",
        "fanin --pubs 5 --subs 2 --qos 1 --window 10",
        "filters --filters 1000 --clients 20 --pubs 2 --flight 100",
        "pairs --pubs 3 --subs 3 --qos 1 --durable 1 --pings 500",
    ],
)
def test_every_message_of_a_real_broker_arrives_once_and_in_order(
    workload: str, mqtt: str, mosquitto_port: int
) -> None:
    figures = load.measure(
        [*workload.split(), "--mqtt", mqtt, "--duration", "0.2", "--warmup", "0.05"], port=mosquitto_port
    )
    assert {name: figures[name] for name in FAULTS if figures[name]} == {}
    assert int(figures["delivered"]) >= int(figures["published"]) > 100
    assert 0 < float(figures["p50_us"]) <= float(figures["p99_us"]) <= float(figures["max_us"])


@pytest.mark.parametrize("mqtt", ["4", "5"])
@pytest.mark.parametrize("qos", ["1", "2"])
def test_what_waited_for_absent_subscribers_arrives_once_and_in_order(qos: str, mqtt: str, mosquitto_port: int) -> None:
    words = ["offline", "--messages", "2000", "--pubs", "3", "--subs", "2", "--settle", "0.1", "--pings", "500"]
    figures = load.measure([*words, "--qos", qos, "--mqtt", mqtt], port=mosquitto_port)
    assert {name: figures[name] for name in FAULTS if figures[name]} == {}
    assert (figures["published"], figures["delivered"]) == (2000, 4000)
    assert float(figures["stored_per_s"]) > 0
    assert int(figures["pings"]) > 20
    assert 0 < float(figures["ping_p99_us"]) <= float(figures["ping_max_us"])


def test_a_broker_whose_queue_is_too_short_has_lost_messages() -> None:
    command = (sys.executable, "-m", "fastmq", "serve", "--listen", "tcp://127.0.0.1:{port}")
    limits = ("--set", "store.durability=none", "--set", "queue.messages_max=1000")
    with running(replace(FASTMQ, command=command + limits, config="")) as broker:
        figures = load.measure(["offline", "--messages", "1500", "--qos", "1", "--settle", "0"], port=broker.port)
    assert (figures["delivered"], figures["lost"]) == (1000, 500)


def test_written_bytes_are_counted_for_a_durable_broker_only() -> None:
    written = []
    for broker in DURABLE["fastmq"]:
        with running(broker) as process:
            words = ["pairs", "--qos", "1", "--durable", "1", "--duration", "0.2", "--warmup", "0"]
            written.append(float(load.measure(words, port=process.port, pid=process.pid)["written_bytes"]))
    fsync, _, none = written
    assert fsync > 16
    assert none == 0


def test_durable_scenarios_compare_what_is_kept_on_a_disk() -> None:
    names = [broker.name for broker in compared(SCENARIOS["durable-q1"], [FASTMQ, MOSQUITTO, RIVALS["aedes"]])]
    assert names == ["fastmq-fsync", "fastmq-os", "fastmq-none", "mosquitto-persistent"]
    assert compared(SCENARIOS["pair10-q1"], [FASTMQ, MOSQUITTO]) == [FASTMQ, MOSQUITTO]
    runs = [
        Run(scenario, broker, "1", 4, False, {"cpu_us": cpu_us})
        for scenario, broker, cpu_us in (
            ("pair10-q1", "fastmq", 1.0),
            ("pair10-q1", "mosquitto", 2.0),
            ("durable-q1", "fastmq-fsync", 1.0),
            ("durable-q1", "mosquitto-persistent", 3.0),
        )
    ]
    cost, _, durable, _ = grids(summarise(runs), ["fastmq", "mosquitto", "fastmq-fsync", "mosquitto-persistent"])
    assert cost.head == ("scenario", "fastmq", "mosquitto")
    assert durable.head == ("scenario", "fastmq-fsync", "mosquitto-persistent")
    assert "(3.0x)" in durable.rows[0][1]


def test_connections_and_retained_messages_are_counted_one_by_one() -> None:
    with running(MOSQUITTO) as broker:
        crowd = load.measure(
            ["connections", "--clients", "300", "--subscribe", "1", "--settle", "0.1"], port=broker.port, pid=broker.pid
        )
        retained = load.measure(
            ["retained", "--messages", "2000", "--pubs", "3", "--qos", "1", "--settle", "0.1"], port=broker.port
        )
    assert (crowd["connections"], crowd["answered_ping"], crowd["disconnects"]) == (300, 300, 0)
    assert float(crowd["cpu_us"]) > 0
    assert (retained["delivered"], retained["lost"], retained["duplicate"]) == (2000, 0, 0)


def test_a_broker_that_is_not_there_is_an_error_and_no_figure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(load.LoadError, match="0 of 2 clients open"):
            load.measure(["pairs"], port=unused.getsockname()[1])


def test_quick_run_prints_the_table_and_leaves_a_line_of_history(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Figures\n{BEGIN}\nold\n{END}\nthe end\n")
    words = ["--quick", "--no-fastmq", "--rival", "mosquitto", "--scenario", "pair10-q1", "--history", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-m", "bench", *words, "--write", str(page)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pair10-q1" in result.stdout
    (history,) = tmp_path.glob("*.jsonl")
    (record,) = map(json.loads, history.read_text().splitlines())
    assert (record["scenario"], record["broker"], record["mqtt"]) == ("pair10-q1", "mosquitto", 4)
    assert all(record[origin] for origin in ("time", "cpu", "kernel", "python", "version"))
    figures = record["figures"]
    assert {name: figures[name] for name in FAULTS if figures[name]} == {}
    assert figures["cpu_us"] > 0
    assert figures["rss_peak_mb"] >= figures["rss_start_mb"] > 0
    text = page.read_text()
    assert "old" not in text
    assert "| pair10-q1 | " in text
    assert text.endswith(f"{END}\nthe end\n")


def test_page_without_a_place_for_figures_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(Exception, match="no place for figures"):
        write_into(page, "figures")
    assert page.read_text() == "no marks"


def test_summary_takes_the_median_and_adds_up_the_faults() -> None:
    def run(cpu_us: float, lost: int) -> Run:
        return Run("pair1-q0", "x", "1", 4, False, {"cpu_us": cpu_us, "lost": lost})

    summary = Summary((run(1.0, 0), run(9.0, 2), run(2.0, 1), Run("pair1-q0", "x", "1", 4, False, error="died")))
    assert summary.median("cpu_us") == 2.0
    assert summary.spread("cpu_us") == 2.0
    assert summary.faults() == {"lost": 3, "failed": 1}


def test_every_scenario_is_one_that_the_generator_knows() -> None:
    usage = subprocess.run([load.build(), "--help"], capture_output=True, text=True, check=True).stdout
    for scenario in SCENARIOS.values():
        for word in scenario.command(seconds=1, mqtt=5, quick=True):
            if word.startswith("--") or word.isalpha():
                assert word in usage, f"{scenario.name}: {word}"
    assert all(name in SCENARIOS for rival in RIVALS.values() for name in rival.too_slow_for)


def test_the_figures_of_the_readme_are_those_of_the_history() -> None:
    """If this fails after a bench: `python -m bench.excerpt`."""
    page = excerpt.PAGE.read_text("utf-8")
    assert f"{excerpt.MARK}\n{excerpt.text()}{END}" in page
