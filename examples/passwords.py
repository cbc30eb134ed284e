"""Who may connect, decided in Python: an authenticator with salted, slow hashes, worked out beside the event loop."""

import asyncio
import hashlib
import hmac
import os

import fastmq
from fastmq.client import Client, ConnectRefused
from fastmq.contracts import Authentication, Credentials
from fastmq.reasons import Reason


def digest(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=2**12, r=8, p=1)


class Passwords:
    """Knows its users; what it does not know, the next authenticator may."""

    def __init__(self, **users: str) -> None:
        salts = {name: os.urandom(16) for name in users}
        self._users = {name: (salts[name], digest(users[name].encode(), salts[name])) for name in users}

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        if credentials.username not in self._users:
            return None
        salt, right = self._users[credentials.username]
        given = await asyncio.to_thread(digest, credentials.password or b"", salt)
        if hmac.compare_digest(given, right):
            return Authentication()
        return Authentication(reason=Reason.BAD_USER_NAME_OR_PASSWORD)


async def attempt(broker: fastmq.Broker, username: str | None, password: str | None) -> str:
    try:
        async with Client(broker.host, broker.port, username=username, password=password):
            return "welcome"
    except ConnectRefused as refused:
        return Reason(refused.reason).name


async def main() -> None:
    async with fastmq.Broker(authenticators=[Passwords(ada="lovelace")], auth__allow_anonymous=False) as broker:
        print("ada, right:", await attempt(broker, "ada", "lovelace"))
        print("ada, wrong:", await attempt(broker, "ada", "byron"))
        print("eve:", await attempt(broker, "eve", "lovelace"))
        print("nobody:", await attempt(broker, None, None))


if __name__ == "__main__":
    asyncio.run(main())
