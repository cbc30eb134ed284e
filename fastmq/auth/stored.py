"""Passwords as databases store them: hashes with salts beside them, in hexadecimal digits."""

import hashlib
import hmac
from typing import Any, Final

from fastmq.auth import hashes
from fastmq.config.databases import HASHES

DIGESTS: Final = {"md5": "md5", "sha": "sha1", "sha256": "sha256", "sha512": "sha512"}


def fits(settings: Any, stored: str, salt: str, password: bytes) -> bool:
    """Whether a stored hash was made of this password, in the way that the step's settings say. In constant time.

    :raises ValueError: it is no such hash; the message does not have it.
    """
    if len(password) > hashes.PASSWORD_MAX_BYTES:
        return False
    kind = settings.hash
    assert kind in HASHES
    if kind in ("argon2id", "bcrypt"):
        try:
            return hashes.verify(stored, password)
        except hashes.BadHash as error:
            raise ValueError(f"a stored hash {error}") from None
    if kind == "plain":
        return hmac.compare_digest(stored.encode(), password)
    if kind == "pbkdf2":
        mac = DIGESTS[settings.pbkdf2_mac]
        made = hashlib.pbkdf2_hmac(mac, password, salt.encode(), settings.pbkdf2_iterations, settings.pbkdf2_bytes)
    else:
        before = salt.encode() if settings.salt_position == "prefix" else b""
        after = salt.encode() if settings.salt_position == "suffix" else b""
        made = hashlib.new(DIGESTS[kind], before + password + after, usedforsecurity=False).digest()
    return hmac.compare_digest(stored.strip().lower().encode(), made.hex().encode())


def nobodys(settings: Any) -> str:
    """A hash that no password fits, as costly to check as others: for users who do not exist."""
    return (
        hashes.nobodys("$2b$10$" if settings.hash == "bcrypt" else "")
        if settings.hash in ("argon2id", "bcrypt")
        else "x"
    )
