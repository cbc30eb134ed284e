"""Every setting, declared once: its default, its limits, its unit and what it does. The only list of settings.

`load` fills these from a file, the environment and flags; `reference` writes docs/reference/config.md from them.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, cast

from fastmq.config import acl, auth, bans
from fastmq.config.cluster import ClusterSettings
from fastmq.config.durability import TopicDurability
from fastmq.config.jetstream import JetStreamSettings
from fastmq.config.listener import Listener
from fastmq.config.setting import BYTES, SIZE_MAX, U16_MAX, U32_MAX, Declared, Tables, declared_in, setting
from fastmq.config.workers import WorkersSettings

MQTT_PACKET_MAX: Final = 268_435_460  # the largest remaining length, and the fixed header before it


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """What the broker offers to and demands of every client."""

    packet_max_bytes: int = setting(
        1_048_576, unit=BYTES, min=64, max=MQTT_PACKET_MAX, help="The largest packet that a client may send."
    )
    receive_maximum: int = setting(
        1024,
        min=1,
        max=U16_MAX,
        help="How many QoS 1 and 2 messages a client may have unacknowledged towards the broker.",
    )
    inflight_max: int = setting(
        32,
        min=1,
        max=U16_MAX,
        help="How many QoS 1 and 2 messages a client that names no Receive Maximum may have unacknowledged.",
    )
    topic_alias_maximum: int = setting(
        64, min=0, max=U16_MAX, help="How many topic aliases a client may use towards the broker; 0: none."
    )
    topic_alias_outbound_max: int = setting(
        64,
        min=0,
        max=U16_MAX,
        help="How many topic aliases the broker uses towards a client, which may allow fewer; 0: none.",
    )
    topic_levels_max: int = setting(128, min=1, max=U16_MAX, help="How many levels a topic name or filter may have.")
    keepalive_multiplier: float = setting(
        1.5, min=1.0, max=10.0, help="A client is gone after its keep-alive times this without a packet. MQTT says 1.5."
    )
    keepalive_min_s: int = setting(
        0,
        unit="s",
        min=0,
        max=U16_MAX,
        help="The shortest keep-alive that a client is held to; one of MQTT 5 is told. None at all is not a short one.",
    )
    keepalive_max_s: int = setting(
        65_535,
        unit="s",
        min=1,
        max=U16_MAX,
        help="The longest keep-alive; who asks for more is given this, and below 65535 who asks for none, too.",
    )
    session_expiry_max_s: int = setting(
        604_800,
        unit="s",
        min=0,
        max=U32_MAX,
        help="How long a session outlives its connection at most; 4294967295: for ever.",
    )
    client_id_max_bytes: int = setting(1024, unit=BYTES, min=23, max=U16_MAX, help="The longest client identifier.")
    maximum_qos: int = setting(2, choices=(0, 1, 2), help="The highest QoS that a client may publish with.")
    retain_available: bool = setting(True, help="Whether clients may publish retained messages.")
    wildcard_available: bool = setting(True, help="Whether clients may subscribe with `+` and `#`.")
    shared_available: bool = setting(True, help="Whether clients may subscribe to `$share/group/filter`.")
    subscription_id_available: bool = setting(True, help="Whether clients may give their subscriptions identifiers.")
    check_payload_format: bool = setting(
        False, help="Whether a payload that its publisher calls UTF-8 is refused (0x99) when it is not."
    )
    connect_timeout_s: float = setting(
        15.0, unit="s", min=0.1, max=3600.0, help="A connection whose CONNECT is not complete by then is closed."
    )
    response_information: str = setting(
        "", help="The prefix of the Response Information for clients that ask for it; empty: none is given."
    )
    server_reference: str = setting(
        "", help="The Server Reference named to clients that are sent elsewhere; empty: none."
    )
    accept_versions: tuple[int, ...] = setting(
        (3, 4, 5),
        choices=(3, 4, 5),
        not_empty=True,
        help="The protocol levels accepted: 3 is MQTT 3.1, 4 is 3.1.1, 5 is 5.0.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """What waits for one session: for its connection, or for its acknowledgements."""

    messages_max: int = setting(1000, min=1, max=U32_MAX, help="How many messages wait for one session at most.")
    bytes_max: int = setting(
        1_048_576, unit=BYTES, min=1024, max=SIZE_MAX, help="How many bytes of messages wait for one session at most."
    )
    qos0_offline: bool = setting(False, help="Whether QoS 0 messages wait for a session without a connection, too.")
    drop: Literal["newest", "oldest"] = setting(
        "newest", choices=("newest", "oldest"), help="Which QoS 1 and 2 messages are lost when the queue is full."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsSettings:
    """What clients may take of the machine."""

    connections_max: int = setting(0, min=0, max=U32_MAX, help="How many connections at a time; 0: no limit.")
    output_max_bytes: int = setting(
        1_048_576, unit=BYTES, min=4096, max=SIZE_MAX, help="How much output waits for one connection's socket at most."
    )
    memory_max_bytes: int = setting(
        0,
        unit=BYTES,
        min=0,
        max=SIZE_MAX,
        help="From this much memory on, new work is refused; 0: 80 % of what the machine or its control group has.",
    )
    subscriptions_max: int = setting(
        0, min=0, max=U32_MAX, help="How many subscriptions one session may have; 0: no limit."
    )
    sessions_max: int = setting(0, min=0, max=U32_MAX, help="How many sessions the broker keeps; 0: no limit.")
    user_sessions_max: int = setting(
        0,
        min=0,
        max=U32_MAX,
        help="How many sessions of one user name it keeps; 0: no limit. After a restart, those count that have been "
        "connected to since.",
    )
    user_subscriptions_max: int = setting(
        0, min=0, max=U32_MAX, help="How many subscriptions all sessions of one user name may have; 0: no limit."
    )
    user_retained_max: int = setting(
        0,
        min=0,
        max=U32_MAX,
        help="How many retained messages there may be that the sessions of one user name have set; 0: no limit. Those "
        "of before a restart count for nobody.",
    )
    tls_handshakes_max: int = setting(
        256, min=1, max=U32_MAX, help="How many TLS handshakes of a listener go on at a time; others wait."
    )
    connect_max_bytes: int = setting(
        262_144, unit=BYTES, min=1024, max=SIZE_MAX, help="The largest CONNECT, before it is known who sends it."
    )
    connects_per_s: int = setting(
        0, unit="connects/s", min=0, max=U32_MAX, help="How many clients may connect at each listener; 0: no limit."
    )
    address_connects_per_s: int = setting(
        0, unit="connects/s", min=0, max=U32_MAX, help="How many may connect from one IP address. Others hear 0x9F."
    )
    messages_per_s: int = setting(
        0, unit="messages/s", min=0, max=U32_MAX, help="What one client may publish; 0: no limit."
    )
    bytes_per_s: int = setting(0, unit="bytes/s", min=0, max=U32_MAX, help="The same in bytes of PUBLISH packets.")
    user_messages_per_s: int = setting(
        0, unit="messages/s", min=0, max=U32_MAX, help="What all clients of one user name may publish together."
    )
    user_bytes_per_s: int = setting(0, unit="bytes/s", min=0, max=U32_MAX, help="The same in bytes.")
    messages_out_per_s: int = setting(
        0, unit="messages/s", min=0, max=U32_MAX, help="What one client is sent; 0: no limit."
    )
    bytes_out_per_s: int = setting(0, unit="bytes/s", min=0, max=U32_MAX, help="The same in bytes of PUBLISH packets.")
    user_messages_out_per_s: int = setting(
        0, unit="messages/s", min=0, max=U32_MAX, help="What all clients of one user name are sent together."
    )
    user_bytes_out_per_s: int = setting(0, unit="bytes/s", min=0, max=U32_MAX, help="The same in bytes.")
    burst_s: float = setting(
        1.0,
        unit="s",
        min=0.25,
        max=3600.0,
        help="After a silence, as much as in this time may come, or be sent, at once. Who sends more is not read from "
        "until it has waited for it; who is to be sent more gets it later, or if its QoS is 0 not at all.",
    )
    pause_max_s: float = setting(
        10.0,
        unit="s",
        min=0.0,
        max=3600.0,
        help="Who would have to wait longer for what it has sent is disconnected (0x96). 0: at once.",
    )
    slow_after_ms: int = setting(
        1000,
        unit="ms",
        min=0,
        max=60_000,
        help="How long a subscriber that takes nothing may hold back its publishers before they go on without it.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSettings:
    """Shared subscriptions: `$share/group/filter` and `$queue/filter`."""

    strategy: Literal["round_robin", "random", "sticky", "hash_clientid", "hash_topic", "least_inflight"] = setting(
        "round_robin",
        choices=("round_robin", "random", "sticky", "hash_clientid", "hash_topic", "least_inflight"),
        help="Which member of the group gets a message.",
    )
    prefer: Literal["local", "even"] = setting(
        "local",
        choices=("local", "even"),
        help="In a cluster, whether members at the node where a message was published are preferred to others.",
    )
    queue_messages_max: int = setting(10_000, min=1, max=U32_MAX, help="How many messages wait for one group at most.")
    queue_bytes_max: int = setting(
        16_777_216, unit=BYTES, min=1024, max=SIZE_MAX, help="How many bytes of messages wait for one group at most."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainSettings:
    """Retained messages."""

    messages_max: int = setting(0, min=0, max=U32_MAX, help="How many are kept; 0: no limit besides memory.")
    bytes_max: int = setting(
        0, unit=BYTES, min=0, max=SIZE_MAX, help="How many bytes are kept; 0: no limit besides memory."
    )
    payload_max_bytes: int = setting(
        0,
        unit=BYTES,
        min=0,
        max=MQTT_PACKET_MAX,
        help="The largest payload that is retained; 0: any that fits a packet.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What survives the broker: sessions with an expiry, their queues, retained messages."""

    durability: Literal["fsync", "os", "none"] = setting(
        "fsync",
        choices=("fsync", "os", "none"),
        help="What an acknowledgement promises: `fsync`: it is on the disk; `os`: the operating system has it, which a "
        "power cut may take; `none`: nothing is kept.",
    )
    topics: tuple[TopicDurability, ...] = setting(
        (),
        item=TopicDurability("telemetry/#", "os"),
        help="Other durabilities for the messages of some topics, as `telemetry/# = os`; the first that matches "
        "counts.",
    )
    engine: Literal["sqlite", "jetstream"] = setting(
        "sqlite",
        choices=("sqlite", "jetstream"),
        help="`sqlite`: a file of this host has it; `jetstream`: several nodes of a cluster have it, so that the death "
        "of one costs nothing, see `[jetstream]`.",
    )
    path: str = setting(
        "",
        help="The file that all of it is kept in. Empty: `fastmq.db` in `$STATE_DIRECTORY`, else in `/var/lib/fastmq` "
        "for root, else in `$XDG_STATE_HOME/fastmq` or `~/.local/state/fastmq`.",
    )
    size_max_bytes: int = setting(
        0,
        unit=BYTES,
        min=0,
        max=SIZE_MAX,
        help="From this size of the file on, messages that it would have to keep are refused (0x97); 0: no limit but "
        "the disk.",
    )
    commit_delay_ms: int = setting(
        0,
        unit="ms",
        min=0,
        max=1000,
        help="How long a commit waits for more to come with it. 0: it begins as soon as the one before is done.",
    )
    backlog_max_bytes: int = setting(
        16_777_216,
        unit=BYTES,
        min=65_536,
        max=1 << 30,
        help="At this much that waits for a commit, publishers wait, too.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SysTopicsSettings:
    """The broker's own figures, published under `$SYS/broker/`."""

    interval_s: int = setting(10, unit="s", min=0, max=86_400, help="How often they are published; 0: never.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Who may connect."""

    allow_anonymous: bool = setting(True, help="Whether clients may connect without being known.")
    scram_file: str = setting(
        "",
        help="A password file with SCRAM hashes, for clients of MQTT 5 that use SCRAM-SHA-256 or SCRAM-SHA-512.",
    )
    chain: tuple[auth.Step, ...] = setting(
        (),
        tables=Tables.of(*auth.KINDS),
        help="The steps by which clients are known. Each lets in, refuses, or leaves the client to the next one.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AclSettings:
    """What clients may publish and subscribe to. Without rules and file: everything."""

    rules: tuple[acl.Rule, ...] = setting(
        (), tables=Tables.of(*acl.KINDS), help="The first rule that fits decides; then the file is asked."
    )
    file: str = setting("", help="A file as Mosquitto's `acl_file`, read again when it changes.")
    no_match: Literal["deny", "allow"] = setting(
        "deny", choices=("deny", "allow"), help="What becomes of what no rule speaks of."
    )
    deny_action: Literal["ignore", "disconnect"] = setting(
        "ignore", choices=("ignore", "disconnect"), help="Whether a client is disconnected when it is denied something."
    )
    check_delivery: bool = setting(
        True,
        help="Each message is checked again on its way to a client, and who subscribes to more than it may read gets "
        "the part that it may. Otherwise only what is allowed as a whole can be subscribed to.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BanSettings:
    """Who may not connect, before anybody is asked."""

    rules: tuple[bans.Ban, ...] = setting((), tables=Tables.of(*bans.KINDS), help="Who they are, and until when.")
    flapping: bool = setting(False, help="Whether clients that connect too often are banned for a while.")
    flapping_connects: int = setting(15, min=2, max=U32_MAX, help="This often, by one client identifier,")
    flapping_window_s: float = setting(60.0, unit="s", min=1.0, max=86_400.0, help="within this time, is too often;")
    flapping_ban_s: float = setting(300.0, unit="s", min=1.0, max=8_640_000.0, help="and this is for how long.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", choices=("debug", "info", "warning", "error"), help="The least important lines that are written."
    )
    format: Literal["text", "json"] = setting(
        "text", choices=("text", "json"), help="Words and key=value, or one JSON object a line."
    )
    connections: bool = setting(True, help="Whether a line is written for each client that connects and disconnects.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of one broker. Immutable: a change is a new Config."""

    listen: tuple[Listener, ...] = setting(
        (Listener("tcp", "127.0.0.1", 1883),),
        not_empty=True,
        tables=Tables.of(Listener),
        help="Where the broker listens: `tcp://HOST:PORT`, an IPv6 address in brackets; port 0: any free port.",
    )
    mqtt: MqttSettings = field(default_factory=MqttSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    limits: LimitsSettings = field(default_factory=LimitsSettings)
    shared: SharedSettings = field(default_factory=SharedSettings)
    retain: RetainSettings = field(default_factory=RetainSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    workers: WorkersSettings = field(default_factory=WorkersSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    jetstream: JetStreamSettings = field(default_factory=JetStreamSettings)
    systopics: SysTopicsSettings = field(default_factory=SysTopicsSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    acl: AclSettings = field(default_factory=AclSettings)
    bans: BanSettings = field(default_factory=BanSettings)
    log: LogSettings = field(default_factory=LogSettings)


def sections() -> dict[str, type[Any]]:
    """The sections of Config by name, in their order."""
    return {item.name: cast(type[Any], item.default_factory) for item in fields(Config) if not item.metadata}


def declared() -> dict[str, Declared]:
    """Every setting by its key, in the order of the schema."""
    found = declared_in(Config)
    for section, settings in sections().items():
        found += declared_in(settings, section)
    return {each.key: each for each in found}
