"""SCRAM (RFC 5802, RFC 7677) as enhanced authentication: both sides prove that they know a password, and send none."""

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Final

from fastmq.auth.scram_keys import DIGESTS, ITERATIONS, Keys, ScramError, parse, prepared
from fastmq.auth.text_file import TextFile
from fastmq.contracts import Authentication, Credentials, Exchange
from fastmq.reasons import Reason

MESSAGE_MAX_BYTES: Final = 4096


class Scram:
    """Implements `contracts.EnhancedAuthenticator`: one mechanism, over a password file that has its hashes."""

    def __init__(self, method: str, users: TextFile[dict[str, str]]) -> None:
        self.method = method
        self._users = users
        self._secret = secrets.token_bytes(32)

    def begin(self, credentials: Credentials) -> Exchange:
        return ScramExchange(self)

    async def keys(self, username: str) -> tuple[Keys, bool]:
        """Of a user, and whether there is one: who does not exist has a salt, too, always the same."""
        await self._users.refresh()
        digest = DIGESTS[self.method]
        found = self._users.value.get(username, "")
        if found.startswith(f"${self.method.lower()}$"):
            return parse(found), True
        salt = hmac.digest(self._secret, username.encode(), "sha256")[:16]
        return Keys(digest, ITERATIONS, salt, b"", b""), False


class ScramExchange:
    """One exchange. `authentication` says who the client is, once it has succeeded."""

    def __init__(self, method: Scram) -> None:
        self._method = method
        self._keys: Keys | None = None
        self._known = False
        self._gs2 = b""
        self._first = ""
        self._nonce = ""
        self.username = ""
        self.authentication: Authentication | None = None

    async def step(self, data: bytes | None) -> tuple[Reason, bytes | None]:
        try:
            if data is None or len(data) > MESSAGE_MAX_BYTES:
                raise ScramError("a message is missing, or too long")
            if self._keys is None:
                return Reason.CONTINUE_AUTHENTICATION, await self._begins(data)
            return Reason.SUCCESS, self._ends(data)
        except (ScramError, UnicodeError):
            return Reason.NOT_AUTHORIZED, None

    async def _begins(self, data: bytes) -> bytes:
        """client-first-message -> server-first-message."""
        text = data.decode()
        parts = text.split(",", 2)
        if len(parts) != 3 or parts[0] not in ("n", "y"):
            raise ScramError("must begin with n,, or y,,: there is no channel to bind to")
        if parts[1]:
            raise ScramError("one user cannot act as another")
        self._gs2 = ",".join((*parts[:2], "")).encode()
        fields = parts[2].split(",")
        if len(fields) < 2 or not fields[0].startswith("n=") or not fields[1].startswith("r=") or len(fields[1]) < 10:
            raise ScramError("must have a user name and a nonce")
        self.username = prepared(_unescaped(fields[0][2:]))
        self._keys, self._known = await self._method.keys(self.username)
        self._nonce = fields[1][2:] + secrets.token_urlsafe(18)
        keys = self._keys
        answer = f"r={self._nonce},s={base64.b64encode(keys.salt).decode()},i={keys.iterations}"
        self._first = f"{parts[2]},{answer}"
        return answer.encode()

    def _ends(self, data: bytes) -> bytes:
        """client-final-message -> server-final-message."""
        assert self._keys is not None
        text, comma, proof = data.decode().rpartition(",p=")
        if text != f"c={base64.b64encode(self._gs2).decode()},r={self._nonce}" or not comma:
            raise ScramError("the channel or the nonce is not the one of before")
        keys = self._keys
        message = f"{self._first},{text}".encode()
        try:
            given = base64.b64decode(proof, validate=True)
        except binascii.Error:
            raise ScramError("the proof is no base64") from None
        signature = hmac.digest(keys.stored or b"\0", message, keys.digest)
        client = bytes(a ^ b for a, b in zip(given, signature, strict=False))
        stored = hashlib.new(keys.digest, client).digest()
        fits = hmac.compare_digest(stored, keys.stored or b"\0" * len(stored)) and len(given) == len(signature)
        if not (fits and self._known):
            raise ScramError("the proof is wrong")
        self.authentication = Authentication(username=self.username, why=self._method.method)
        return b"v=" + base64.b64encode(hmac.digest(keys.server, message, keys.digest))


def _unescaped(name: str) -> str:
    """RFC 5802, section 5.1: commas and equals signs are written as =2C and =3D."""
    rest = name.replace("=2C", "").replace("=3D", "")
    if "=" in rest or not name:
        raise ScramError("the user name is malformed")
    return name.replace("=2C", ",").replace("=3D", "=")


def methods(users: TextFile[dict[str, str]]) -> list[Scram]:
    """Both mechanisms over one file."""
    return [Scram(method, users) for method in DIGESTS]
