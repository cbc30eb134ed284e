"""`$SYS/broker/...` under Mosquitto's names, which exporters parse."""

import time
from collections.abc import Callable

import fastmq
from fastmq.contracts import Message

LOADS = {  # name -> counter
    "messages/received": "packets_received",
    "messages/sent": "packets_sent",
    "publish/received": "publish_received",
    "publish/sent": "publish_sent",
    "publish/dropped": "publish_dropped",
    "bytes/received": "bytes_received",
    "bytes/sent": "bytes_sent",
    "sockets": "connections_total",
    "connections": "connects",
}
TOTALS = {
    "messages/received": "packets_received",
    "messages/sent": "packets_sent",
    "publish/messages/received": "publish_received",
    "publish/messages/sent": "publish_sent",
    "publish/messages/dropped": "publish_dropped",
    "publish/bytes/received": "publish_bytes_received",
    "publish/bytes/sent": "publish_bytes_sent",
    "bytes/received": "bytes_received",
    "bytes/sent": "bytes_sent",
    "clients/total": "sessions",
    "clients/connected": "clients_connected",
    "clients/active": "clients_connected",
    "clients/disconnected": "clients_disconnected",
    "clients/inactive": "clients_disconnected",
    "clients/maximum": "connections_peak",
    "clients/expired": "sessions_expired",
    "subscriptions/count": "subscriptions",
    "shared_subscriptions/count": "shared_subscriptions",
    "retained messages/count": "retained",
    "messages/stored": "retained",
    "store/messages/count": "retained",
    "store/messages/bytes": "retained_bytes",
    "heap/current": "memory_bytes",
    "heap/maximum": "memory_peak",
}
SOMETIMES = {
    "certificate/expires": "certificate_expires",
    "cluster/nodes": "cluster_nodes",
    "cluster/backlog/bytes": "cluster_backlog_bytes",
}
WINDOWS = {"1min": 60.0, "5min": 300.0, "15min": 900.0}


class SysTopics:
    """Publishes the figures of one worker every `interval_s` seconds; 0 = never. Only what changed is published."""

    def __init__(self, stats: Callable[[], dict[str, int]], publish: Callable[[Message], int], interval_s: int) -> None:
        self._stats = stats
        self._publish = publish
        self._interval_s = interval_s
        self._due: float | None = None
        self._started = time.monotonic()
        self._last: dict[str, int] = {}
        self._last_at = self._started
        self._loads: dict[str, float] = {}
        self._said: dict[str, str] = {}

    def start(self) -> None:
        """Publishes at once, and from then on whenever `tick` finds the interval over."""
        if self._interval_s:
            self._started = self._last_at = self._due = time.monotonic()
            self._say("version", f"fastmq version {fastmq.__version__}")
            self.tick()

    def tick(self) -> None:
        """Called a few times a second. (The loop would arm a timer of its own for each message anew.)"""
        now = time.monotonic()
        if self._due is None or now < self._due:
            return
        self._due = now + self._interval_s
        stats = self._stats()
        stats["clients_connected"] = stats["connects"] - stats["disconnects"]
        stats["clients_disconnected"] = stats["sessions"] - stats["clients_connected"]
        stats["connections_total"] = stats["connects"] + stats["connections_refused"]
        self._say("uptime", f"{int(now - self._started)} seconds")
        for name, counter in TOTALS.items():
            self._say(name, str(stats[counter]))
        for name, counter in SOMETIMES.items():
            if counter in stats:
                self._say(name, str(stats[counter]))
        self._say_loads(stats, now)

    def _say_loads(self, stats: dict[str, int], now: float) -> None:
        """Exponential averages per minute over 1, 5 and 15 minutes, as Mosquitto computes them."""
        elapsed = max(now - self._last_at, 0.001)
        for name, counter in LOADS.items():
            rate = (stats[counter] - self._last.get(counter, 0)) / elapsed * 60
            for window, seconds in WINDOWS.items():
                key = f"load/{name}/{window}"
                keep = 2.718281828459045 ** (-elapsed / seconds)
                self._loads[key] = rate * (1 - keep) + self._loads.get(key, 0.0) * keep
                self._say(key, f"{self._loads[key]:.2f}")
        self._last = stats
        self._last_at = now

    def _say(self, name: str, value: str) -> None:
        if self._said.get(name) != value:
            self._said[name] = value
            self._publish(Message(f"$SYS/broker/{name}", value.encode(), retain=True))
