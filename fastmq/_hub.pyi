from collections.abc import Callable

from fastmq._tap import Tap
from fastmq.packets import Auth

STRATEGIES: tuple[str, ...]

class Hub:
    on_connect: Callable[[int, bytes], None] | None
    on_auth: Callable[[int, Auth], None] | None
    on_tick: Callable[[], None] | None
    on_gone: Callable[[bytes, int], None] | None
    def __init__(
        self,
        *,
        packet_max: int,
        output_max: int,
        receive_max: int = 1024,
        alias_max: int = 64,
        levels_max: int = 128,
        qos_max: int = 2,
        retain_available: bool = True,
        wildcard_available: bool = True,
        shared_available: bool = True,
        ids_available: bool = True,
        check_payload: bool = False,
        queue_max: int = 1000,
        queue_bytes_max: int = ...,
        qos0_offline: bool = False,
        drop_oldest: bool = False,
        expiry_max_s: int = 604800,
        subscriptions_max: int = 0,
        connections_max: int = 0,
        memory_max: int = 0,
        slow_after_ms: int = 1000,
        connect_timeout_ms: int = 15000,
        strategy: str = "round_robin",
        group_queue_max: int = 10000,
        group_queue_bytes_max: int = ...,
        retained_max: int = 0,
        retained_bytes_max: int = 0,
        retained_payload_max: int = 0,
    ) -> None: ...
    def close(self) -> None: ...
    def fileno(self) -> int: ...
    def on_ready(self) -> None: ...
    def listen(self, fd: int, listener: int) -> None: ...
    def unlisten(self, fd: int) -> None: ...
    def peer(self, id: int) -> str: ...
    def is_open(self, id: int) -> bool: ...
    def has_session(self, client_id: bytes) -> bool: ...
    def open(
        self,
        id: int,
        client_id: bytes,
        *,
        clean_start: bool,
        version: int,
        expiry_s: int,
        send_max: int,
        packet_max: int = 0,
        alias_max: int = 0,
        will: bytes | None = None,
        will_delay_s: int = 0,
        is_bridge: bool = False,
    ) -> bool | None: ...
    def start(self, id: int, connack: bytes, keepalive_ms: int = 0) -> None: ...
    def reject(self, id: int, packet: bytes) -> None: ...
    def send(self, id: int, packet: bytes) -> bool: ...
    def close_connection(self, id: int, reason: int = 0, with_will: bool = True) -> bool: ...
    def disconnect(self, client_id: bytes, reason: int = 0x98) -> bool: ...
    def close_all(self, reason: int) -> int: ...
    def publish(self, packet: bytes) -> int: ...
    def tap(self, messages_max: int = 10000, bytes_max: int = ...) -> Tap: ...
    def stats(self) -> dict[str, int]: ...
    def clients(self) -> list[tuple[bytes, bool, int, int, int, int, int]]: ...
    @property
    def is_full(self) -> bool: ...
    @property
    def now_ms(self) -> int: ...
    def advance(self, ms: int) -> None: ...
