"""CONNECT: from its bytes to an open session, or a CONNACK that says why not. MQTT 5 and 3.1.1, section 3.1.

Without authenticators everything happens at once; with them the connection is parked until they have answered.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Sequence

from fastmq import logs
from fastmq._codec import decode_connect, encode
from fastmq._hub import Hub
from fastmq.broker.bans import Bans
from fastmq.broker.deadlines import Deadlines
from fastmq.broker.exchanges import Exchanges
from fastmq.broker.guards import Guards
from fastmq.broker.limits import Limits
from fastmq.config.schema import Config
from fastmq.contracts import Authentication, Authenticator, Certificate, Client, Credentials
from fastmq.errors import ProtocolError
from fastmq.packets import Connack, Connect, Properties, Publish, Will
from fastmq.reasons import Reason

EXPIRY_NEVER = 0xFFFF_FFFF
CACHE_MAX = 64  # different CONNACKs kept encoded
BRIDGE_STATE = "$SYS/broker/connection/"  # what Mosquitto's bridges publish, their wills above all
ACCEPTED_V31 = b"\x20\x02\x00\x00"
ACCEPTED_V311 = (b"\x20\x02\x00\x00", b"\x20\x02\x01\x00")  # the second with Session Present


class Refusal(Exception):
    """The CONNECT is answered with this reason."""

    def __init__(self, reason: Reason, why: str = "") -> None:
        super().__init__(reason.name)
        self.reason = reason
        self.why = why
        """For the log; the client hears no more than the reason."""


def _identity(certificate: Certificate, which: str) -> str:
    if which == "san":
        return next(iter(certificate.alternative_names), "")
    return {"cn": certificate.common_name, "dn": certificate.subject}.get(which, "")


class Handshake:
    """Answers the CONNECTs of one worker."""

    def __init__(
        self,
        hub: Hub,
        config: Config,
        authenticators: Sequence[Authenticator],
        exchanges: Exchanges,
        guards: Guards | None = None,
    ) -> None:
        self._hub = hub
        self._config = config
        self._mqtt = config.mqtt
        self._authenticators = tuple(authenticators)
        self._exchanges = exchanges
        self._guards = guards
        self._limits = Limits(hub, config)
        self._bans = Bans(config.bans)
        self._log = logs.get("broker") if config.log.connections else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners = config.listen
        self._deadlines = Deadlines(hub)
        self._cache: dict[tuple[int | None, int | None], tuple[bytes, bytes]] = {}

    def reload(self, config: Config, authenticators: Sequence[Authenticator]) -> None:
        """Other settings and other steps, for those who connect from now on."""
        self._config = config
        self._listeners = config.listen
        self._authenticators = tuple(authenticators)
        self._limits = Limits(self._hub, config)
        self._bans = self._bans.renewed(config.bans)

    def on_connect(self, conn: int, body: bytes) -> None:
        """Called by the hub, in its turn."""
        at = 2 + int.from_bytes(body[:2], "big")
        # 3 and 4 with RSMB's bridge bit, as Mosquitto sends them
        is_bridge = len(body) > at and body[at] in (0x83, 0x84)
        if is_bridge:
            body = body[:at] + bytes((body[at] & 0x7F,)) + body[at + 1 :]
        try:
            connect = decode_connect(body)
        except ProtocolError as error:
            self._refuse_undecoded(conn, body, error)
            return
        try:
            if not connect.username:  # some clients send an empty user name when they have none
                connect.username = None
            self._check_door(conn, connect)
            self._check(connect)
            if connect.properties.authentication_method is not None:
                self._later(conn, connect, self._enhanced(conn, connect))
            elif self._authenticators or self._guards is not None or self._certified(conn):
                self._later(conn, connect, self._authenticate(conn, connect, is_bridge))
            else:
                if not self._allows_anonymous(conn):
                    raise Refusal(Reason.NOT_AUTHORIZED)
                self._accept(conn, connect, Properties(), is_bridge)
        except Refusal as refusal:
            self._refuse(conn, connect, refusal.reason, refusal.why)

    # -- is it acceptable? ---------------------------------------------------------------------------------------------

    def _check_door(self, conn: int, connect: Connect) -> None:
        """What is asked before anything else, since it is cheap: rates and bans."""
        if not (self._limits.on_connects or self._bans.any):
            return
        address = self._hub.peer(conn).rpartition(":")[0].strip("[]")
        if not self._limits.may_connect(self._hub.listener(conn), address):
            raise Refusal(Reason.CONNECTION_RATE_EXCEEDED)
        if why := self._bans.why(connect.client_id, connect.username, address):
            raise Refusal(Reason.BANNED, why)

    def _check(self, connect: Connect) -> None:
        mqtt = self._mqtt
        if connect.version not in mqtt.accept_versions:
            raise Refusal(Reason.UNSUPPORTED_PROTOCOL_VERSION)
        if not connect.client_id and (connect.version == 3 or (connect.version == 4 and not connect.clean_start)):
            raise Refusal(Reason.CLIENT_IDENTIFIER_NOT_VALID)  # [MQTT-3.1.3-8] of 3.1.1
        if len(connect.client_id.encode()) > mqtt.client_id_max_bytes:
            raise Refusal(Reason.CLIENT_IDENTIFIER_NOT_VALID)
        will = connect.will
        if will is not None and will.qos > mqtt.maximum_qos:
            raise Refusal(Reason.QOS_NOT_SUPPORTED)  # [MQTT-3.2.2-12]
        if will is not None and will.retain and not mqtt.retain_available:
            raise Refusal(Reason.RETAIN_NOT_SUPPORTED)  # [MQTT-3.2.2-13]
        if will is not None and will.topic.startswith("$SYS/") and not will.topic.startswith(BRIDGE_STATE):
            raise Refusal(Reason.NOT_AUTHORIZED)
        sessions_max = self._config.limits.sessions_max
        is_full = self._hub.is_full or (sessions_max and self._hub.stats()["sessions"] >= sessions_max)
        if is_full and not self._hub.has_session(connect.client_id.encode()):
            raise Refusal(Reason.QUOTA_EXCEEDED)  # who has a session may come and drain its queue
        if self._hub.trouble and self._outlives(connect) and not self._hub.has_session(connect.client_id.encode()):
            raise Refusal(Reason(self._hub.trouble))  # what it is promised could not be kept

    def _outlives(self, connect: Connect) -> bool:
        """Whether the session is to outlive its connection."""
        if connect.version < 5:
            return not connect.clean_start
        return bool(connect.properties.session_expiry_interval)

    def _credentials(self, conn: int, connect: Connect) -> Credentials:
        return Credentials(
            client_id=connect.client_id,
            username=connect.username,
            password=connect.password,
            peer=self._hub.peer(conn),
            version=connect.version,
            listener=self._listeners[self._hub.listener(conn)].title,
            certificate=getattr(sink := self._hub.sinks.sink(conn), "certificate", None),
            cookies=getattr(sink, "cookies", {}),
        )

    def _allows_anonymous(self, conn: int) -> bool:
        here = self._listeners[self._hub.listener(conn)].allow_anonymous
        return here == "yes" if here else self._config.auth.allow_anonymous

    def _certified(self, conn: int) -> bool:
        """Whether a client's certificate may say who it is."""
        listener = self._listeners[self._hub.listener(conn)]
        return bool(listener.username_from or listener.client_id_from)

    def _take_certificate(self, conn: int, connect: Connect, certificate: Certificate | None) -> bool:
        """Takes user name and client identifier from the certificate, as the listener says; whether that is proof."""
        listener = self._listeners[self._hub.listener(conn)]
        if certificate is None or not self._certified(conn):
            return False
        username = _identity(certificate, listener.username_from)
        client_id = _identity(certificate, listener.client_id_from)
        if (listener.username_from and not username) or (listener.client_id_from and not client_id):
            raise Refusal(Reason.NOT_AUTHORIZED, "its certificate has no such name")
        if client_id:
            connect.client_id = client_id
            self._check(connect)
        if username:
            connect.username = username
        return bool(username)

    async def _authenticate(self, conn: int, connect: Connect, is_bridge: bool) -> None:
        credentials = self._credentials(conn, connect)
        if self._take_certificate(conn, connect, credentials.certificate):
            await self._admit(conn, connect, credentials, Properties(), is_bridge)
            return
        credentials = self._credentials(conn, connect)  # the client identifier may be another now
        for authenticator in self._authenticators:
            answer = await authenticator.authenticate(credentials)
            if answer is not None:
                if answer.reason >= 0x80:
                    raise Refusal(answer.reason, answer.why)
                self._known(conn, connect, answer)
                await self._admit(conn, connect, credentials, Properties(), is_bridge, answer)
                return
        if connect.username is not None and self._authenticators:
            raise Refusal(Reason.BAD_USER_NAME_OR_PASSWORD, "nobody knows this user")
        if not self._allows_anonymous(conn):
            raise Refusal(Reason.NOT_AUTHORIZED, "it is anonymous")
        await self._admit(conn, connect, credentials, Properties(), is_bridge)

    async def _admit(
        self,
        conn: int,
        connect: Connect,
        shown: Credentials,
        answer: Properties,
        is_bridge: bool = False,
        known: Authentication | None = None,
    ) -> None:
        """Finds out what a client may do that has shown who it is, and lets it in."""
        if self._guards is not None:
            self._name(connect, answer)
            client = Client(
                client_id=connect.client_id,
                username=connect.username,
                address=shown.address,
                listener=shown.listener,
                certificate=shown.certificate.subject if shown.certificate is not None else "",
                superuser=known is not None and known.superuser,
                groups=known.groups if known is not None else (),
                rules=known.rules if known is not None else (),
            )
            access = await self._guards.admit(conn, client)
            if (will := connect.will) is not None and access is not None:
                allowed, rule = access.publish(will.topic.encode(), will.qos, will.retain)
                if not allowed:
                    raise Refusal(Reason.NOT_AUTHORIZED, f"its will: {self._guards.why(access, rule)}")
        self._accept(conn, connect, answer, is_bridge)

    def _name(self, connect: Connect, answer: Properties) -> None:
        if not connect.client_id:
            connect.client_id = f"fastmq-{secrets.token_hex(8)}"
            answer.assigned_client_identifier = connect.client_id  # [MQTT-3.2.2-16]

    def _known(self, conn: int, connect: Connect, answer: Authentication) -> None:
        """Takes over what an authenticator found out about a client that it lets in."""
        if answer.client_id is not None:
            connect.client_id = answer.client_id
            self._check(connect)
        if answer.username is not None:
            connect.username = answer.username
        if answer.expires_at is not None and not self._deadlines.set(conn, answer.expires_at):
            raise Refusal(Reason.NOT_AUTHORIZED, "what it showed has expired")

    async def _enhanced(self, conn: int, connect: Connect) -> None:
        credentials = self._credentials(conn, connect)
        answer = await self._exchanges.run(conn, connect, credentials)
        if isinstance(answer, Reason):
            raise Refusal(answer)
        known = self._exchanges.known(conn)
        if known is not None:
            self._known(conn, connect, known)
        await self._admit(conn, connect, credentials, answer, known=known)

    def _later(self, conn: int, connect: Connect, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(conn, connect, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, conn: int, connect: Connect, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except Refusal as refusal:
            self._refuse(conn, connect, refusal.reason, refusal.why)
        except Exception:
            logs.get("broker").exception("an authenticator failed; the client is refused", client=connect.client_id)
            self._refuse(conn, connect, Reason.SERVER_UNAVAILABLE)

    async def close(self) -> None:
        """Gives up on clients that are still being authenticated."""
        self._deadlines.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- yes -----------------------------------------------------------------------------------------------------------

    def _accept(self, conn: int, connect: Connect, answer: Properties, is_bridge: bool = False) -> None:
        mqtt = self._mqtt
        properties = connect.properties
        self._name(connect, answer)
        keepalive = connect.keepalive
        if keepalive > mqtt.keepalive_max_s or (keepalive == 0 and mqtt.keepalive_max_s < 65_535):
            keepalive = mqtt.keepalive_max_s
            answer.server_keep_alive = keepalive
        wanted = properties.session_expiry_interval or 0
        if connect.version < 5:
            wanted = 0 if connect.clean_start else EXPIRY_NEVER
        expiry = min(wanted, mqtt.session_expiry_max_s)
        if expiry != wanted:
            answer.session_expiry_interval = expiry
        if properties.request_response_information and mqtt.response_information:
            answer.response_information = f"{mqtt.response_information}/{connect.client_id}"
        will, will_delay = self._will(connect)
        accepted = ACCEPTED_V31, ACCEPTED_V31
        if connect.version == 4:
            accepted = ACCEPTED_V311
        elif connect.version == 5:
            accepted = self._connacks(answer)
            if len(accepted[0]) > (properties.maximum_packet_size or EXPIRY_NEVER):
                self._refuse(conn, connect, Reason.PACKET_TOO_LARGE)  # [MQTT-3.1.2-24]
                return
        try:
            present = self._hub.open(
                conn,
                connect.client_id.encode(),
                clean_start=connect.clean_start,
                version=connect.version,
                expiry_s=expiry,
                send_max=properties.receive_maximum or mqtt.inflight_max,
                packet_max=properties.maximum_packet_size or 0,
                alias_max=min(properties.topic_alias_maximum or 0, mqtt.topic_alias_outbound_max),
                will=will,
                will_delay_s=will_delay,
                is_bridge=is_bridge,
            )
        except MemoryError:
            self._refuse(conn, connect, Reason.QUOTA_EXCEEDED)
            return
        if present is None:
            return
        self._limits.hold(conn, connect.username)
        self._hub.start(conn, accepted[present], round(keepalive * 1000 * mqtt.keepalive_multiplier))
        if self._log is not None:
            self._log.info(
                "client connected",
                client=connect.client_id,
                peer=self._hub.peer(conn),
                version=connect.version,
                keepalive=keepalive,
                session_present=present,
            )

    def _will(self, connect: Connect) -> tuple[bytes | None, int]:
        will: Will | None = connect.will
        if will is None:
            return None, 0
        delay = will.properties.will_delay_interval or 0
        will.properties.will_delay_interval = None
        publish = Publish(will.topic, will.payload, will.qos, will.retain, False, 1 if will.qos else 0, will.properties)
        return encode(publish, 5), delay

    def _connacks(self, answer: Properties) -> tuple[bytes, bytes]:
        """CONNACK for MQTT 5, without and with Session Present; from a cache when it says nothing about one client."""
        common = answer.authentication_method is None and answer.response_information is None
        common = common and answer.assigned_client_identifier is None
        key = (answer.session_expiry_interval, answer.server_keep_alive)
        if common and key in self._cache:
            return self._cache[key]
        mqtt = self._mqtt
        answer.receive_maximum = mqtt.receive_maximum
        answer.maximum_packet_size = mqtt.packet_max_bytes
        answer.topic_alias_maximum = mqtt.topic_alias_maximum or None
        answer.maximum_qos = mqtt.maximum_qos if mqtt.maximum_qos < 2 else None
        answer.retain_available = None if mqtt.retain_available else False
        answer.wildcard_subscription_available = None if mqtt.wildcard_available else False
        answer.shared_subscription_available = None if mqtt.shared_available else False
        answer.subscription_identifier_available = None if mqtt.subscription_id_available else False
        packets = (
            encode(Connack(False, Reason.SUCCESS, answer), 5),
            encode(Connack(True, Reason.SUCCESS, answer), 5),
        )
        if common and len(self._cache) < CACHE_MAX:
            self._cache[key] = packets
        return packets

    # -- no ------------------------------------------------------------------------------------------------------------

    def _refuse(self, conn: int, connect: Connect, reason: Reason, why: str = "") -> None:
        answer = Properties()
        if reason in (Reason.USE_ANOTHER_SERVER, Reason.SERVER_MOVED):
            answer.server_reference = self._mqtt.server_reference or None
        packet = encode(Connack(False, reason, answer), connect.version)
        if len(packet) <= (connect.properties.maximum_packet_size or EXPIRY_NEVER):
            self._hub.reject(conn, packet)
        else:
            self._hub.close_connection(conn)
        if self._log is not None:
            peer = self._hub.peer(conn)
            more = {"detail": why} if why else {}
            self._log.info("client refused", client=connect.client_id, peer=peer, reason=reason.name, **more)

    def _refuse_undecoded(self, conn: int, body: bytes, error: ProtocolError) -> None:
        """Answers a CONNECT that is wrong in itself as far as its version can be told; else only closes."""
        if self._log is not None:
            peer = self._hub.peer(conn)
            self._log.info("client refused", client="", peer=peer, reason=error.reason.name, detail=error)
        length = int.from_bytes(body[:2], "big")
        level = body[2 + length] if len(body) > 2 + length else -1
        if body[2 : 2 + length] == b"MQTT" and level >= 5 and not level & 0x80:
            self._hub.reject(conn, encode(Connack(False, error.reason, Properties()), 5))
        elif error.reason == Reason.UNSUPPORTED_PROTOCOL_VERSION and body[2 : 2 + length] in (b"MQTT", b"MQIsdp"):
            self._hub.reject(conn, b"\x20\x02\x00\x01")  # [MQTT-3.1.2-2] of 3.1.1
        else:
            self._hub.close_connection(conn)
