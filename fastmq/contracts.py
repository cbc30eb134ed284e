"""Where rooms meet: the Protocols through which one room uses another without importing it.

A Protocol is added with its first implementation and its first user; there are no stubs here.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from fastmq._access import Access
from fastmq.packets import Properties
from fastmq.reasons import Reason

__all__ = [
    "AccessRule",
    "Authentication",
    "Authenticator",
    "Authorizer",
    "BrokerPort",
    "Certificate",
    "Client",
    "Credentials",
    "EnhancedAuthenticator",
    "Exchange",
    "Fabric",
    "Facts",
    "Homes",
    "Message",
    "Receiver",
    "Store",
]


@dataclass(frozen=True, slots=True)
class Message:
    """An application message, as the program around the broker sees it."""

    topic: str
    payload: bytes = b""
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=Properties)


class BrokerPort(Protocol):
    """The broker as every room but its own sees it."""

    async def publish(self, message: Message) -> int:
        """Routes a message as the broker's own; returns how many subscribers it had on this worker."""
        ...

    def subscribe(self, *filters: str, qos: int = 2, retained: bool = True) -> AsyncIterator[Message]:
        """The messages that match any of the filters, from now until the iterator is closed."""
        ...

    def disconnect(self, client_id: str, reason: Reason = Reason.ADMINISTRATIVE_ACTION) -> bool:
        """Ends a client's connection; False when it is not connected."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A client's certificate; who issued it is trusted, and it is valid."""

    subject: str
    """Its distinguished name as RFC 4514 writes it, `CN=sensor-7,O=Example`."""
    common_name: str
    alternative_names: tuple[str, ...]
    """Host names, mail addresses and URIs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a CONNECT, and the connection it came on, offer to prove who it is."""

    client_id: str
    username: str | None
    password: bytes | None = field(repr=False)
    peer: str
    """`address:port`."""
    version: int
    listener: str = ""
    """The name of the listener it came through."""
    certificate: Certificate | None = None
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What a browser sent along with its WebSocket."""

    @property
    def address(self) -> str:
        """The client's IP address without its port."""
        return self.peer.rpartition(":")[0].strip("[]")

    @property
    def values(self) -> dict[str, str | None]:
        """What `${clientid}` and the like stand for: see `config/placeholders.py`."""
        return {
            "clientid": self.client_id or None,
            "username": self.username,
            "peerhost": self.address or None,
            "listener": self.listener or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """What one client may do, or not; `topic` is a filter as in `acl.rules`, with its places."""

    topic: str
    allow: bool = True
    action: str = "all"
    """`publish`, `subscribe` or `all`."""
    qos: tuple[int, ...] = ()
    """Empty: any."""
    retain: bool | None = None
    """None: with and without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """An authenticator's answer; `reason` SUCCESS lets the client in."""

    reason: Reason = Reason.SUCCESS
    client_id: str | None = None
    """The client identifier to use instead of the client's own; None: its own."""
    username: str | None = None
    """The user name to use instead of the client's own; None: its own."""
    superuser: bool = False
    """Whether it may do everything."""
    groups: tuple[str, ...] = ()
    """The groups or roles that it has."""
    rules: tuple[AccessRule, ...] = ()
    """What it may do, before all other rules."""
    expires_at: float | None = None
    """Unix time at which the client is disconnected (0x87); None: never."""
    why: str = ""
    """For the log, never for the client: what was wrong, or which step let it in."""


class Fabric(Protocol):
    """The other workers. Messages between clients are the engine's affair; this is for what surrounds it."""

    async def start(self) -> None:
        """Connects to the others, now and whenever one of them is new."""
        ...

    async def ready(self) -> None:
        """Returns when all that the others' clients want is known here."""
        ...

    def tell(self, index: int, kind: str, value: Any) -> bool:
        """Says something, as JSON, to another worker; False: it does not hear it."""
        ...

    def hear(self, kind: str, call: Callable[[int, Any], None]) -> None:
        """Calls with what others say of this kind: who, and what."""
        ...

    async def close(self) -> None:
        """Connects no more."""
        ...


class Homes(Protocol):
    """Where clients' sessions are, of several workers."""

    async def start(self) -> None:
        """Takes connections that other workers give."""
        ...

    def is_here(self, conn: int, client_id: str) -> bool:
        """Whether a connection's client is this worker's affair."""
        ...

    async def hand_over(self, conn: int, packet: bytes, client_id: str, *, became: bool) -> bool:
        """Gives a connection and its CONNECT to the client's worker; False: that is not there.

        `became`: an authenticator has found the client identifier, and the other worker is to know it from the start.
        """
        ...

    async def close(self) -> None:
        """Gives and takes no more."""
        ...


class Nodes(Protocol):
    """Where clients' sessions are, of several nodes."""

    def is_here(self, conn: int, client_id: str) -> bool:
        """Whether nobody needs to be asked about a client."""
        ...

    async def settle(self, conn: int, packet: bytes, client_id: str, *, became: bool, clean: bool) -> bool:
        """Whether a client's session is at this node, or begins here; False: its connection was given to another.

        :raises Unavailable: it may be at a node that is away.
        """
        ...

    def figures(self) -> dict[str, int]:
        """`cluster_nodes`: those that are there, with this one; `cluster_backlog_bytes`: what they have not taken."""
        ...


class Receiver(Protocol):
    """What a connection over a transport of the loop tells its news."""

    def receive(self, conn: int, data: bytes | bytearray | memoryview, /) -> bool:
        """Input; False: nobody wants it any more."""
        ...

    def block(self, conn: int, blocked: bool, /) -> None:
        """Whether the client takes nothing for now."""
        ...

    def lost(self, conn: int, /) -> None:
        """The transport is gone."""
        ...


@runtime_checkable
class Authenticator(Protocol):
    """Decides about user names and passwords. Slow work belongs off the loop."""

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        """The verdict, or None to leave it to the next authenticator."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who a connected client is, as far as is known."""

    client_id: str
    username: str | None = None
    """None: it is anonymous."""
    address: str = ""
    """Its IP address."""
    listener: str = ""
    """The name of the listener it came through."""
    certificate: str = ""
    """The subject of its certificate, `CN=a,O=b`; empty: it has shown none."""
    superuser: bool = False
    """Whether it may do everything."""
    groups: tuple[str, ...] = ()
    """The groups or roles that it has, as whoever authenticated it said."""
    rules: tuple[AccessRule, ...] = ()
    """What it may do, as whoever authenticated it said."""

    @property
    def values(self) -> dict[str, str | None]:
        """What `${clientid}` and the like stand for: see `config/placeholders.py`."""
        return {
            "clientid": self.client_id,
            "username": self.username,
            "peerhost": self.address or None,
            "listener": self.listener or None,
        }


class Authorizer(Protocol):
    """Decides what clients may publish and subscribe to: once for each, as a list that the engine then asks."""

    async def access(self, client: Client) -> Access | None:
        """What this client may do; None: everything."""
        ...

    async def refresh(self) -> bool:
        """Looks whether the rules have changed; if so, every client's list is to be made anew."""
        ...

    def place(self, serial: int, rule: int) -> str:
        """Where a rule is written; `serial` of its list, and which of it, -1 for none."""
        ...


class Exchange(Protocol):
    """One client's enhanced authentication (MQTT 5, section 4.12).

    It may have an attribute `authentication`: an Authentication, once it has succeeded, that says who the client is.
    """

    async def step(self, data: bytes | None) -> tuple[Reason, bytes | None]:
        """Answers the client's Authentication Data: CONTINUE_AUTHENTICATION or SUCCESS with data, or a failure."""
        ...


class EnhancedAuthenticator(Protocol):
    """A method of enhanced authentication, SCRAM for one."""

    method: str
    """The Authentication Method that clients name."""

    def begin(self, credentials: Credentials) -> Exchange:
        """A fresh exchange, for a connection or for a re-authentication."""
        ...


class Facts(Protocol):
    """What the broker remembers besides sessions and messages: users and bans, a key and a value each."""

    @property
    def version(self) -> int:
        """Changes with them."""
        ...

    def get(self, key: str) -> bytes | None:
        """None: there is none."""
        ...

    def under(self, prefix: str) -> Mapping[str, bytes]:
        """Those whose keys begin so, with the rest of their keys."""
        ...

    async def put(self, changes: Mapping[str, bytes | None]) -> None:
        """Returns when they are stored; None removes one.

        :raises StoreError: they are not.
        """
        ...


class Store(Protocol):
    """What outlives the broker: sessions, subscriptions, queues, retained messages and wills, as records.

    `fastmq/store/records.py` defines the records; a batch is records back to back. All methods block. They are called
    from one thread at a time, not always the same one. Each but `close` raises StoreError.
    """

    def load(self) -> Iterator[bytes]:
        """All that is stored, once, before the first `append`.

        In this order: CLOCK (the engine's milliseconds now, downtime included); GROUP; SESSION; SUBSCRIBED; RECEIVED;
        MESSAGE for those that are retained or a will, STUB for the others; RETAINED; WILL; DELIVERY by (subscriber,
        position). Messages that expired meanwhile, deliveries without a message and messages that nothing refers to
        are left out. A batch has 64 KiB to 1 MiB.
        """
        ...

    def append(self, batch: bytes, sync: bool) -> None:
        """Returns when the batch is committed: with `sync` on the medium, else at least with the operating system.

        After StoreError nothing of it is stored, and the same batch may be tried again. Raises ValueError for bytes
        that are no batch.
        """
        ...

    def fetch(self, ids: Sequence[int]) -> list[bytes | None]:
        """The MESSAGE records of these messages, in their order; None for one that is not there."""
        ...

    def maintain(self, budget_s: float) -> bool:
        """A slice of housekeeping that takes about `budget_s`; True when there is more to do now."""
        ...

    def facts(self) -> Mapping[str, bytes]:
        """What else is to be remembered, users and bans for example: a value for each key."""
        ...

    def put_facts(self, changes: Mapping[str, bytes | None]) -> None:
        """Returns when all of these are on the medium, or none of them after StoreError; None removes one."""
        ...

    def facts_changed(self) -> bool:
        """Whether somebody else may have changed facts since `facts` was called last."""
        ...

    def no_room(self) -> str:
        """Why no more messages should be appended; empty while there is room.

        A store takes what it is given as long as it can. It is asked after each `append`, so that new messages are
        refused in time, while acknowledgements go on and make room.
        """
        ...

    def stat(self) -> Mapping[str, int]:
        """Figures: `file_bytes`, `journal_bytes`, `sessions`, `deliveries`, `messages`, `commits` and more."""
        ...

    def hurry(self) -> None:
        """The broker ends: whoever does not answer soon is not waited for any more. From any thread."""
        ...

    def close(self) -> None:
        """Puts everything where it belongs and gives the files back. Nothing is called afterwards."""
        ...
