"""TLS for listeners: contexts from the settings, swapped when their files change; who a client's certificate is for."""

import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fastmq import logs
from fastmq.broker import psk
from fastmq.config.listener import Listener
from fastmq.contracts import Certificate
from fastmq.errors import StartError

LOOK_S: Final = 5.0
"""How often it is looked whether the files have changed."""
WARN_S: Final = 14 * 86_400.0
"""A certificate that expires sooner is told in the log, once a day."""
DAY_S: Final = 86_400.0
PROTOCOLS: Final = ("mqtt",)
"""What clients may ask for by ALPN."""
WEB_PROTOCOLS: Final = ("http/1.1",)

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_SHORT: Final = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "domainComponent": "DC",
    "userId": "UID",
    "streetAddress": "STREET",
}

log = logs.get("tls")


class Contexts:
    """The TLS of one listener. `context` is for the server; which certificate a client gets is decided as it comes.

    :raises StartError: a file cannot be used.
    """

    def __init__(self, listener: Listener, protocols: Sequence[str]) -> None:
        self._listener = listener
        self._protocols = protocols
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._expiries: dict[str, float] = {}
        self._keys: dict[str, bytes] = {}
        self._warned_at = 0.0
        self._stamps = self._stamp()
        self.context = self._first = self._load()
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._by_name.get((name or "").lower()) or self._wildcard(name) or self._first

    def _wildcard(self, name: str | None) -> ssl.SSLContext | None:
        return self._by_name.get("*." + name.lower().partition(".")[2]) if name else None

    def refresh(self) -> None:
        """Loads the files again if they have changed; those that are wrong are told, and what was there stays."""
        stamps = self._stamp()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._first = self._load()
            except StartError as error:
                log.error("a TLS file is wrong; new clients get what was there before", reason=error)
            else:
                log.info("loaded certificates again", listener=self._listener.title)
        self._warn(time.time())

    @property
    def expires_at(self) -> float:
        """Unix time at which the first of the certificates expires."""
        return min(self._expiries.values(), default=float("inf"))

    def _warn(self, now: float) -> None:
        if now - self._warned_at < DAY_S:
            return
        self._warned_at = now
        for path, expires_at in self._expiries.items():
            if expires_at - now < WARN_S:
                days = round((expires_at - now) / DAY_S)
                log.warning("a certificate has expired" if days < 0 else "a certificate expires", file=path, days=days)

    def _files(self) -> list[str]:
        listener = self._listener
        return [
            *listener.certificates,
            *listener.keys,
            *filter(None, (listener.client_ca, listener.crl, listener.psk_file)),
        ]

    def _stamp(self) -> list[tuple[int, int, int] | None]:
        return [_stamp_of(Path(path)) for path in self._files()]

    def _load(self) -> ssl.SSLContext:
        listener = self._listener
        by_name: dict[str, ssl.SSLContext] = {}
        expiries: dict[str, float] = {}
        first: ssl.SSLContext | None = None
        keys = psk.read(listener.psk_file) if listener.psk_file else {}
        for at, path in enumerate(listener.certificates):
            context = self._context(path, listener.keys[at] if listener.keys else path)
            found = _decoded(path)
            expiries[path] = ssl.cert_time_to_seconds(str(found["notAfter"]))
            for name in _alternative_names(found):
                by_name.setdefault(name.lower(), context)
            first = first or context
        first = first or self._context()
        self._by_name, self._expiries, self._keys = by_name, expiries, keys
        return first

    def _context(self, certificate: str = "", key: str = "") -> ssl.SSLContext:
        listener = self._listener
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[listener.tls_min]
        context.set_alpn_protocols(list(self._protocols))
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        try:
            if listener.ciphers:
                context.set_ciphers(listener.ciphers)
        except ssl.SSLError:
            raise StartError(f"{listener.title}: ciphers: OpenSSL knows none of {listener.ciphers!r}") from None
        if listener.psk_file:
            # The keys as they are when a client comes: its context may be older.
            psk.use(context, lambda identity: self._keys.get(identity), listener.ciphers)
        for path in filter(None, (certificate, key)):
            _readable(listener, path)
        try:
            if certificate:
                context.load_cert_chain(certificate, key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise StartError(f"{listener.title}: {certificate}: {_shown(error)} (its key: {key})") from None
        if listener.client_certificates:
            # Who comes back with an old session shows no certificate: it may be revoked by now. See `is_resumed`.
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
            required = listener.client_certificates == "require"
            context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
            for path in filter(None, (listener.client_ca, listener.crl)):
                _readable(listener, path)
                try:
                    context.load_verify_locations(path)
                except (ssl.SSLError, OSError) as error:
                    raise StartError(f"{listener.title}: {path}: {_shown(error)}") from None
            if listener.crl:
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        return context


def is_resumed(transport: Any) -> bool:
    """Whether a client has come with the session of an older connection, and shown nothing new."""
    found = transport.get_extra_info("ssl_object")
    return found is not None and bool(found.session_reused)


def certificate_of(transport: Any) -> Certificate | None:
    """The certificate that a client has shown, if any."""
    found = transport.get_extra_info("peercert")
    if not found:
        return None
    parts = [(key, value) for group in found.get("subject", ()) for key, value in group]
    return Certificate(
        subject=",".join(f"{_SHORT.get(key, key)}={_escaped(value)}" for key, value in reversed(parts)),
        common_name=next((value for key, value in reversed(parts) if key == "commonName"), ""),
        alternative_names=tuple(_alternative_names(found)),
    )


def _alternative_names(found: Mapping[str, Any]) -> list[str]:
    return [value for kind, value in found.get("subjectAltName", ()) if kind in ("DNS", "email", "URI")]


def _escaped(value: str) -> str:
    """RFC 4514, section 2.4."""
    text = "".join("\\" + each if each in ',+"\\<>;=' else each for each in value)
    if text.startswith(("#", " ")):
        text = "\\" + text
    return text[:-1] + "\\ " if text.endswith(" ") and len(text) > 1 else text


def _decoded(path: str) -> Mapping[str, Any]:
    # The standard library parses certificates for its own tests; a library for one date and some names would be large.
    found: Mapping[str, Any] = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]
    return found


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _readable(listener: Listener, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise StartError(f"{listener.title}: {path}: {error.strerror}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; fastmq takes keys without a passphrase")


def _shown(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "").replace("_", " ").lower()
        return f"cannot be used: {reason}" if reason else "has nothing in PEM that can be used"
    return str(error)
