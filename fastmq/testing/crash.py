"""The crash proof: a broker under load is ended again and again, and nothing that it acknowledged may be missing.

    verdict = prove(Plan(folder=Path("/var/lib/somewhere"), rounds=100))
    assert verdict.is_clean, verdict.details

A round: load until a random moment, the end of the broker, its start on the same store, the same clients with the same
sessions. Every few rounds everything is drained and the books are checked; rounds in between carry over what is open.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

from fastmq.testing.crash_books import Books
from fastmq.testing.crash_broker import Child
from fastmq.testing.crash_load import Load
from fastmq.testing.powerloss import Machine

__all__ = ["End", "Plan", "Proof", "Verdict", "prove"]

LOAD_S: Final = (0.02, 0.35)
ACKNOWLEDGED_MAX: Final = 600
STARTING: Final = 0.1
"""How often a broker is ended a second time, while it is starting."""

ROOMY: Final = {
    "queue.messages_max": "4294967295",
    "queue.bytes_max": str(1 << 40),
    "shared.queue_messages_max": "4294967295",
    "shared.queue_bytes_max": str(1 << 40),
}
"""No queue drops anything while its subscriber is away."""


class End(StrEnum):
    """How the broker ends."""

    KILL = "kill -9"
    TERMINATE = "SIGTERM"
    POWER_LOSS = "power loss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    folder: Path
    """The store is made below it, in `disk/`, and is left there."""
    rounds: int = 100
    ends: Sequence[End] = (End.KILL,)
    qos: Sequence[int] = (1, 2)
    seed: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the broker, dotted, beside the path of the store."""
    drain_every: int = 4
    quiet_s: float = 4.0
    """While it is drained: without any news for so long, nothing more will come."""
    has_faults: bool = False
    """Whether the disk may fail and the clock may jump; with power loss, they always may."""
    command: Sequence[str] = ()
    """Another broker, to judge the judge; {port} is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a proof has found. All numbers are of messages, but for `delivered` and the last two of the violations."""

    rounds: int
    crashes: int
    published: int
    acknowledged: int
    refused: int
    delivered: int  #: first arrivals, at all subscribers together
    recovered: int  #: those of them that were acknowledged before a crash and arrived after it
    duplicates: int  #: QoS 1 only, where they are allowed
    lost: int
    repeated: int  #: QoS 2 messages that arrived again
    reordered: int
    ghosts: int  #: messages for subscriptions that were gone
    damaged: int
    sessions_lost: int
    retained_wrong: int
    broken: int  #: what a broker must never do: a traceback, an answer to nothing, a client that is left waiting
    details: tuple[str, ...]
    seconds: float

    @property
    def violations(self) -> dict[str, int]:
        """All that must be 0."""
        return {name: getattr(self, name) for name in VIOLATIONS}

    @property
    def is_clean(self) -> bool:
        return not any(self.violations.values())


VIOLATIONS: Final = (
    "lost", "repeated", "reordered", "ghosts", "damaged", "sessions_lost", "retained_wrong", "broken",
)  # fmt: skip


class Proof:
    """One store, one set of clients, many lives of the broker. `with` starts the first."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.books = Books()
        self.rounds = 0
        self._random = random.Random(plan.seed)
        self._resources = ExitStack()
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            room = Path(resources.enter_context(TemporaryDirectory(prefix="fastmq-crash-")))
            self.disk = self.plan.folder / "disk"
            self.disk.mkdir(parents=True, exist_ok=True)
            self.machine = self._machine(room, resources)
            settings = {**ROOMY, "store.path": str(self.disk / "store"), **self.plan.settings}
            environment = self.machine.environment() if self.machine else {}
            self.child = Child(self.plan.folder / "broker.log", settings, environment, self.plan.command)
            resources.callback(self.child.kill)
            self.load = Load(
                self.books, self.child.address, self.plan.qos, seed=self.plan.seed, quiet_s=self.plan.quiet_s
            )
            resources.callback(self._drop_clients)
            self.child.spawn()
            self.child.await_listening()
            self.load.open()
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def _machine(self, room: Path, resources: ExitStack) -> Machine | None:
        loses_power = End.POWER_LOSS in self.plan.ends
        if not loses_power and not self.plan.has_faults:
            return None
        machine = Machine(self.disk, room, loses_power=loses_power, seed=self.plan.seed)
        resources.callback(machine.close)
        return machine

    def _drop_clients(self) -> None:
        for client in self.load.clients:
            client.lost()

    # -- rounds ------------------------------------------------------------------------------------------------------

    def round(self, *, drains: bool) -> None:
        """Load until a moment, an end, a start; the clients come back. `drains`: and the books are checked."""
        self.rounds += 1
        self.books.round = self.rounds
        if drains and self._random.random() < 0.5:
            self.load.rest_retained()
        self.run_to_a_moment()
        if drains:
            self.load.stop_flapping()
        self.end(self._random.choice(list(self.plan.ends)))
        self.start()
        if drains:
            self.drain()

    def drain(self) -> None:
        self.load.drain()
        self._check_log()
        self.load.start()

    def run_to_a_moment(self) -> None:
        """Some time, or some acknowledgement, or an answer to a SUBSCRIBE or UNSUBSCRIBE."""
        draw = self._random.random()
        counts = self.books.counts
        if draw < 0.5:
            self.load.run(lambda: False, self._random.uniform(*LOAD_S))
        elif draw < 0.85:
            wanted = counts["acknowledged"] + self._random.randint(1, ACKNOWLEDGED_MAX)
            self.load.run(lambda: counts["acknowledged"] >= wanted, 5.0)
        else:
            self.load.run(lambda: False, self._random.uniform(*LOAD_S))
            answered = counts["answered"] + 1
            self.load.run(lambda: counts["answered"] >= answered, 1.0)

    def end(self, end: End) -> None:
        """The broker ends in that way, and its clients have read its last words."""
        if not self.child.is_running:
            self.books.violation("broken", f"the broker ended by itself:\n{self.child.log()[-1500:]}")
        self.books.crashed()
        if end is End.TERMINATE:
            code = self.child.terminate()
            if code != 0:
                self.books.violation("broken", f"SIGTERM ended the broker with {code}")
        else:
            self.child.kill()
        self.load.read_to_end()
        self._check_log()
        self._lose_power(end)

    def start(self) -> None:
        """The broker starts; now and then it is killed while it does, and started again."""
        ends = [end for end in self.plan.ends if end is not End.TERMINATE]
        if ends and self._random.random() < STARTING:
            self.books.counts["crashes"] += 1
            self.child.spawn()
            time.sleep(self._random.uniform(0.1, 0.5))
            self.child.kill()
            self._check_log()
            self._lose_power(self._random.choice(ends))
        self.child.spawn()
        self.child.await_listening()

    def _lose_power(self, end: End) -> None:
        if end is End.POWER_LOSS:
            assert self.machine is not None
            self.machine.cut_power()

    def _check_log(self) -> None:
        complaints = self.child.complaints()
        if complaints:
            self.books.violation("broken", f"the broker logged:\n{complaints}")

    def verdict(self) -> Verdict:
        names = ("crashes", "published", "acknowledged", "refused", "delivered", "recovered", "duplicates")
        return Verdict(
            rounds=self.rounds,
            details=tuple(self.books.details),
            seconds=time.monotonic() - self._began,
            **{name: self.books.counts[name] for name in names},
            **{name: self.books.violations[name] for name in VIOLATIONS},
        )


def prove(plan: Plan, on_round: Callable[[int], None] = lambda number: None) -> Verdict:
    """The whole proof; `on_round` is called after each round."""
    with Proof(plan) as proof:
        for number in range(1, plan.rounds + 1):
            proof.round(drains=number % plan.drain_every == 0 or number == plan.rounds)
            on_round(number)
        if proof.child.is_running and proof.child.terminate() != 0:
            proof.books.violation("broken", "SIGTERM did not end the broker in order")
        return proof.verdict()
