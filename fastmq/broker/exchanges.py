"""Enhanced authentication: AUTH packets to and fro (MQTT 5, section 4.12). The methods themselves are contracts."""

import asyncio
from collections.abc import Sequence

from fastmq import logs
from fastmq._codec import encode
from fastmq._hub import Hub
from fastmq.contracts import Authentication, Credentials, EnhancedAuthenticator, Exchange
from fastmq.packets import Auth, Connect, Properties
from fastmq.reasons import Reason

STEP_TIMEOUT_S = 15


class _Running:
    """The exchange of one connection, and the method it was connected with."""

    __slots__ = ("answers", "authenticator", "credentials", "known")

    def __init__(self, authenticator: EnhancedAuthenticator, credentials: Credentials) -> None:
        self.authenticator = authenticator
        self.credentials = credentials
        self.answers: asyncio.Queue[Auth] | None = asyncio.Queue(1)
        self.known: Authentication | None = None


class Exchanges:
    """The enhanced authentications of one worker."""

    def __init__(self, hub: Hub, authenticators: Sequence[EnhancedAuthenticator]) -> None:
        self._hub = hub
        self._methods = {each.method: each for each in authenticators}
        self._running: dict[int, _Running] = {}  # by connection; kept while it lives, for re-authentication
        self._tasks: set[asyncio.Task[None]] = set()  # re-authentications

    async def run(self, conn: int, connect: Connect, credentials: Credentials) -> Properties | Reason:
        """Authenticates a CONNECT; returns the properties for its CONNACK, or why it is refused."""
        method = connect.properties.authentication_method or ""
        authenticator = self._methods.get(method)
        if authenticator is None:
            return Reason.BAD_AUTHENTICATION_METHOD  # [MQTT-4.12.0-1]
        self._forget_closed()
        running = self._running[conn] = _Running(authenticator, credentials)
        exchange = authenticator.begin(credentials)
        reason, data = await self._talk(conn, running, exchange, connect.properties.authentication_data)
        if reason != Reason.SUCCESS:
            self._running.pop(conn, None)
            return reason
        running.answers = None
        running.known = getattr(exchange, "authentication", None)
        return Properties(authentication_method=method, authentication_data=data)

    def known(self, conn: int) -> Authentication | None:
        """Who a client is that `run` has let in, as far as its method tells."""
        running = self._running.get(conn)
        return running.known if running is not None else None

    def on_auth(self, conn: int, auth: Auth) -> None:
        """Called by the hub with each AUTH of a client."""
        running = self._running.get(conn)
        method = auth.properties.authentication_method
        if running is None or method != running.authenticator.method:
            self._hub.close_connection(conn, Reason.PROTOCOL_ERROR)  # [MQTT-4.12.0-5] [MQTT-4.12.1-1]
        elif auth.reason == Reason.CONTINUE_AUTHENTICATION and running.answers is not None:
            if running.answers.full():
                self._hub.close_connection(conn, Reason.PROTOCOL_ERROR)
            else:
                running.answers.put_nowait(auth)
        elif auth.reason == Reason.REAUTHENTICATE and running.answers is None:
            running.answers = asyncio.Queue(1)
            task = asyncio.get_running_loop().create_task(self._again(conn, running, auth))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._hub.close_connection(conn, Reason.PROTOCOL_ERROR)

    async def close(self) -> None:
        """Gives up on re-authentications that are under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _again(self, conn: int, running: _Running, auth: Auth) -> None:
        """Re-authenticates a connected client; a failure ends its connection [MQTT-4.12.1-2]."""
        exchange = running.authenticator.begin(running.credentials)
        try:
            reason, data = await self._talk(conn, running, exchange, auth.properties.authentication_data)
        except Exception:
            logs.get("broker").exception("re-authentication failed", client=running.credentials.client_id)
            reason, data = Reason.NOT_AUTHORIZED, None
        running.answers = None
        known: Authentication | None = getattr(exchange, "authentication", None)
        if running.known is not None and (known is None or known.username != running.known.username):
            reason = Reason.NOT_AUTHORIZED  # it may prove again who it is, not that it is another
        if reason == Reason.SUCCESS:
            self._send(conn, running, Reason.SUCCESS, data)
        else:
            self._hub.close_connection(conn, reason)

    async def _talk(
        self, conn: int, running: _Running, exchange: Exchange, data: bytes | None
    ) -> tuple[Reason, bytes | None]:
        while True:
            reason, answer = await exchange.step(data)
            if reason != Reason.CONTINUE_AUTHENTICATION:
                return reason, answer
            if not self._send(conn, running, reason, answer) or running.answers is None:
                return Reason.NOT_AUTHORIZED, None
            auth = await self._answer(conn, running.answers)
            if auth is None:
                return Reason.NOT_AUTHORIZED, None
            data = auth.properties.authentication_data

    async def _answer(self, conn: int, answers: asyncio.Queue[Auth]) -> Auth | None:
        """The client's next AUTH; None when it leaves or takes longer than STEP_TIMEOUT_S."""
        for _ in range(STEP_TIMEOUT_S):
            try:
                return await asyncio.wait_for(answers.get(), 1)
            except TimeoutError:
                if not self._hub.is_open(conn):
                    break
        return None

    def _send(self, conn: int, running: _Running, reason: Reason, data: bytes | None) -> bool:
        properties = Properties(authentication_method=running.authenticator.method, authentication_data=data)
        return self._hub.send(conn, encode(Auth(reason, properties), 5))

    def _forget_closed(self) -> None:
        """Drops what is kept of connections that are gone; called when one is added, so the table stays bounded."""
        if len(self._running) >= 64 and len(self._running) & (len(self._running) - 1) == 0:
            for conn in [conn for conn in self._running if not self._hub.is_open(conn)]:
                del self._running[conn]
