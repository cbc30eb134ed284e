"""CONNECT: from its bytes to an open session, or a CONNACK that says why not. MQTT 5 and 3.1.1, section 3.1.

Without authenticators everything happens at once; with them the connection is parked until they have answered.
"""

import asyncio
import secrets
from collections.abc import Coroutine, Sequence

from fastmq import logs
from fastmq._codec import decode_connect, encode
from fastmq._hub import Hub
from fastmq.broker import mounting
from fastmq.broker.banning import Banning
from fastmq.broker.connack import EXPIRY_NEVER, Connacks, undecoded
from fastmq.broker.deadlines import Deadlines
from fastmq.broker.exchanges import Exchanges
from fastmq.broker.guards import Guards
from fastmq.broker.homing import Homing, identity
from fastmq.broker.limits import Limits
from fastmq.broker.refusal import Refusal
from fastmq.config.listener import Listener
from fastmq.config.schema import Config
from fastmq.contracts import Authentication, Authenticator, Certificate, Client, Credentials, Homes, Nodes
from fastmq.errors import ProtocolError
from fastmq.packets import Connect, Properties, Publish, Will
from fastmq.reasons import Reason

BRIDGE_STATE = "$SYS/broker/connection/"  # what Mosquitto's bridges publish, their wills above all


class Handshake:
    """Answers the CONNECTs of one worker."""

    def __init__(
        self,
        hub: Hub,
        config: Config,
        authenticators: Sequence[Authenticator],
        exchanges: Exchanges,
        banning: Banning,
        guards: Guards | None = None,
    ) -> None:
        self._hub = hub
        self._config = config
        self._mqtt = config.mqtt
        self._authenticators = tuple(authenticators)
        self._exchanges = exchanges
        self._guards = guards
        self._homing: Homing | None = None
        self._limits = Limits(hub, config)
        self._banning = banning
        self._log = logs.get("broker") if config.log.connections else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners = config.listen
        self._deadlines = Deadlines(hub)
        self._connacks = Connacks(config.mqtt)

    def join(self, homes: Homes | None, nodes: Nodes | None) -> None:
        """There are other workers, or nodes, and clients whose sessions are theirs."""
        self._homing = Homing(self._hub, homes)
        if nodes is not None:
            self._homing.join(nodes)

    def reload(self, config: Config, authenticators: Sequence[Authenticator]) -> None:
        """Other settings and other steps, for those who connect from now on."""
        self._config = config
        self._mqtt = config.mqtt
        self._connacks = Connacks(config.mqtt)
        self._listeners = config.listen
        self._authenticators = tuple(authenticators)
        self._limits = Limits(self._hub, config)

    def on_connect(self, conn: int, body: bytes) -> None:
        """Called by the hub, in its turn."""
        whole = body
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
            if self._homing is not None and not self._homing.is_here(conn, connect, self._listener(conn)):
                self._later(conn, connect, self._find(self._homing, conn, connect, is_bridge, whole))
                return
            self._go_on(conn, connect, is_bridge, whole)
        except Refusal as refusal:
            self._refuse(conn, connect, refusal.reason, refusal.why)

    async def _find(self, homing: Homing, conn: int, connect: Connect, is_bridge: bool, whole: bytes) -> None:
        """Goes on if the session is here after all."""
        if await homing.stays(conn, connect, whole) and self._hub.is_open(conn):
            self._go_on(conn, connect, is_bridge, whole)

    def _go_on(self, conn: int, connect: Connect, is_bridge: bool, whole: bytes) -> None:
        """The session is this worker's affair. Raises Refusal."""
        self._check_door(conn, connect)
        self._check(connect)
        if connect.properties.authentication_method is not None:
            self._later(conn, connect, self._enhanced(conn, connect))
        elif self._authenticators or self._guards is not None or self._certified(conn):
            self._later(conn, connect, self._authenticate(conn, connect, is_bridge, whole))
        else:
            if not self._allows_anonymous(conn):
                raise Refusal(Reason.NOT_AUTHORIZED)
            answer = Properties()
            self._name(conn, connect, answer)
            self._check_known(conn, connect)
            self._accept(conn, connect, answer, is_bridge)

    # -- is it acceptable? ---------------------------------------------------------------------------------------------

    def _check_door(self, conn: int, connect: Connect) -> None:
        """What is asked before anything else, since it is cheap: rates and bans."""
        bans = self._banning.bans
        if not (self._limits.on_connects or bans.any):
            return
        address = self._address(conn)
        if not self._limits.may_connect(self._hub.listener(conn), address):
            raise Refusal(Reason.CONNECTION_RATE_EXCEEDED)
        if why := bans.why(connect.client_id, connect.username, address):
            raise Refusal(Reason.BANNED, why)

    def _listener(self, conn: int) -> Listener:
        return self._listeners[self._hub.listener(conn)]

    def _address(self, conn: int) -> str:
        return self._hub.peer(conn).rpartition(":")[0].strip("[]")

    def _check_known(self, conn: int, connect: Connect) -> None:
        """What is asked once it is certain who the client is, which may be another than it said."""
        bans = self._banning.bans
        if bans.any_rules and (why := bans.banned(connect.client_id, connect.username, self._address(conn))):
            raise Refusal(Reason.BANNED, why)
        if not self._hub.has_session(connect.client_id.encode()) and not self._limits.may_have_session(
            connect.username
        ):
            raise Refusal(Reason.QUOTA_EXCEEDED, "its user has as many sessions as one may have")
        listener = self._listener(conn)
        if listener.mount_point:
            mount = mounting.mount(listener, connect, self._address(conn))
            self._hub.mount(conn, mount.encode())

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
            listener=self._listener(conn).title,
            certificate=getattr(sink := self._hub.sinks.sink(conn), "certificate", None),
            cookies=getattr(sink, "cookies", {}),
        )

    def _allows_anonymous(self, conn: int) -> bool:
        here = self._listener(conn).allow_anonymous
        return here == "yes" if here else self._config.auth.allow_anonymous

    def _certified(self, conn: int) -> bool:
        """Whether a client's certificate may say who it is."""
        listener = self._listener(conn)
        return bool(listener.username_from or listener.client_id_from)

    def _take_certificate(self, conn: int, connect: Connect, certificate: Certificate | None) -> bool:
        """Takes user name and client identifier from the certificate, as the listener says; whether that is proof."""
        listener = self._listener(conn)
        if certificate is None or not self._certified(conn):
            return False
        username = identity(certificate, listener.username_from)
        client_id = identity(certificate, listener.client_id_from)
        if (listener.username_from and not username) or (listener.client_id_from and not client_id):
            raise Refusal(Reason.NOT_AUTHORIZED, "its certificate has no such name")
        if client_id:
            connect.client_id = client_id
            self._check(connect)
        if username:
            connect.username = username
        return bool(username)

    async def _authenticate(self, conn: int, connect: Connect, is_bridge: bool, whole: bytes) -> None:
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
                if self._homing is not None and not await self._homing.stays(conn, connect, whole, became=True):
                    return
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
        self._name(conn, connect, answer)
        self._check_known(conn, connect)
        if self._guards is not None:
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

    def _name(self, conn: int, connect: Connect, answer: Properties) -> None:
        if not connect.client_id:
            while not connect.client_id or (self._homing and not self._homing.has(conn, connect.client_id)):
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
            if self._homing is not None and not self._homing.has(conn, connect.client_id):
                raise Refusal(Reason.IMPLEMENTATION_SPECIFIC_ERROR, "its session would be at another worker")
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
        keepalive = connect.keepalive
        if keepalive > mqtt.keepalive_max_s or (keepalive == 0 and mqtt.keepalive_max_s < 65_535):
            keepalive = answer.server_keep_alive = mqtt.keepalive_max_s
        elif 0 < keepalive < mqtt.keepalive_min_s:
            keepalive = answer.server_keep_alive = min(mqtt.keepalive_min_s, mqtt.keepalive_max_s)
        wanted = properties.session_expiry_interval or 0
        if connect.version < 5:
            wanted = 0 if connect.clean_start else EXPIRY_NEVER
        expiry = min(wanted, mqtt.session_expiry_max_s)
        if expiry != wanted:
            answer.session_expiry_interval = expiry
        if properties.request_response_information and mqtt.response_information:
            answer.response_information = f"{mqtt.response_information}/{connect.client_id}"
        will, will_delay = self._will(connect)
        accepted = self._connacks.accepted(connect, answer)
        if accepted is None:
            raise Refusal(Reason.PACKET_TOO_LARGE)
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
                username=connect.username.encode() if connect.username is not None else None,
            )
        except MemoryError:
            raise Refusal(Reason.QUOTA_EXCEEDED, "there is no memory for its session") from None
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

    # -- no ------------------------------------------------------------------------------------------------------------

    def _refuse(self, conn: int, connect: Connect, reason: Reason, why: str = "") -> None:
        packet = self._connacks.refused(connect, reason)
        if packet is not None:
            self._hub.reject(conn, packet)
        else:
            self._hub.close_connection(conn)
        if self._log is not None:
            peer = self._hub.peer(conn)
            more = {"detail": why} if why else {}
            self._log.info("client refused", client=connect.client_id, peer=peer, reason=reason.name, **more)

    def _refuse_undecoded(self, conn: int, body: bytes, error: ProtocolError) -> None:
        if self._log is not None:
            peer = self._hub.peer(conn)
            self._log.info("client refused", client="", peer=peer, reason=error.reason.name, detail=error)
        packet = undecoded(body, error)
        if packet is not None:
            self._hub.reject(conn, packet)
        else:
            self._hub.close_connection(conn)
