"""A directory: the user is looked for, and its password is tried with a bind (RFC 4511, section 4.2)."""

import math
import ssl
import warnings
from collections.abc import Mapping
from typing import Any, Final

from fastmq.auth.work import Work
from fastmq.config import placeholders
from fastmq.config.databases import Ldap
from fastmq.contracts import Authentication, Credentials
from fastmq.reasons import Reason

THREADS: Final = 8
"""So many clients are asked about at a time."""


class Directory:
    """Implements `contracts.Authenticator`. Who is not in the directory is left to the next step.

    :raises ValueError: it cannot work like that.
    """

    def __init__(self, settings: Ldap) -> None:
        with warnings.catch_warnings():  # ldap3 uses names of pyasn1 that have newer ones
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                import ldap3
                import ldap3.core.exceptions
                import ldap3.utils.conv
                import ldap3.utils.dn
            except ImportError:
                raise ValueError("method ldap needs ldap3: pip install 'fastmq[ldap]'") from None
        self._ldap3 = ldap3
        self._settings = settings
        self._work = Work(THREADS)  # of its own: a directory that hangs must not hold up other steps
        tls = None
        if settings.start_tls or settings.url.startswith("ldaps:"):
            tls = ldap3.Tls(
                validate=ssl.CERT_REQUIRED, ca_certs_file=settings.ca or None, version=ssl.PROTOCOL_TLS_CLIENT
            )
        self._server = ldap3.Server(settings.url, tls=tls, connect_timeout=settings.timeout_s, get_info=ldap3.NONE)

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        username, password = credentials.username, credentials.password
        if username is None:
            return None
        if not password:  # a bind without a password is one as nobody, and succeeds
            return Authentication(reason=Reason.BAD_USER_NAME_OR_PASSWORD, why="it has no password")
        return await self._work.do(lambda: self._ask(credentials.values, password))

    async def close(self) -> None:
        """Asks no more."""
        self._work.close()

    def _ask(self, values: Mapping[str, str | None], password: bytes) -> Authentication | None:
        settings = self._settings
        try:
            text = password.decode()
        except UnicodeDecodeError:
            return Authentication(reason=Reason.BAD_USER_NAME_OR_PASSWORD, why="its password is not UTF-8")
        if settings.bind_dn:
            escape = self._ldap3.utils.dn.escape_rdn
            dn = placeholders.fill(
                settings.bind_dn, {key: escape(value) if value else value for key, value in values.items()}
            )
        else:
            dn = self._search(values)
        if dn is None:
            return None
        bound = self._bind(dn, text)
        if bound is None:
            return Authentication(reason=Reason.BAD_USER_NAME_OR_PASSWORD, why="the directory refuses its password")
        try:
            return Authentication(superuser=self._is_superuser(bound, dn, values), why=dn)
        finally:
            bound.unbind()

    def _bind(self, dn: str | None, password: str | None) -> Any:
        """A connection of this user; None: the password is wrong.

        :raises LDAPException: the directory does not answer, or not as it should.
        """
        connection = self._ldap3.Connection(
            self._server, user=dn, password=password, receive_timeout=math.ceil(self._settings.timeout_s),
            authentication=self._ldap3.SIMPLE if dn else self._ldap3.ANONYMOUS,
        )  # fmt: skip
        try:
            connection.open()
            if self._settings.start_tls and not connection.start_tls():
                raise ssl.SSLError("the directory refuses StartTLS")
            if connection.bind():
                return connection
            if connection.result["description"] == "invalidCredentials":
                connection.unbind()
                return None
            raise self._ldap3.core.exceptions.LDAPBindError(connection.result["description"])
        except BaseException:
            connection.strategy.close()
            if connection.socket is not None:  # ldap3 leaves it open when it could not connect
                connection.socket.close()
            raise

    def _search(self, values: Mapping[str, str | None]) -> str | None:
        """The one entry that the filter fits; None: there is none, or more than one."""
        settings = self._settings
        connection = self._bind(settings.search_dn or None, str(settings.search_password) or None)
        if connection is None:
            raise self._ldap3.core.exceptions.LDAPBindError("search_password is wrong")
        try:
            found = self._find(connection, settings.search_base, settings.search_filter, values, self._ldap3.SUBTREE)
        finally:
            connection.unbind()
        return found[0] if len(found) == 1 else None

    def _is_superuser(self, bound: Any, dn: str, values: Mapping[str, str | None]) -> bool:
        if not self._settings.superuser_filter:
            return False
        return bool(self._find(bound, dn, self._settings.superuser_filter, values, self._ldap3.BASE))

    def _find(
        self, connection: Any, base: str, template: str, values: Mapping[str, str | None], scope: str
    ) -> list[str]:
        escape = self._ldap3.utils.conv.escape_filter_chars
        query = placeholders.fill(template, {key: escape(value) if value else value for key, value in values.items()})
        if query is None:
            return []
        connection.search(base, query, search_scope=scope, attributes=None, size_limit=2)
        return [entry["dn"] for entry in connection.response or () if entry.get("type") == "searchResEntry"]
