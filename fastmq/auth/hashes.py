"""Hashes of passwords: argon2id, bcrypt, SCRAM, and the two of mosquitto_passwd, `$7$` (PBKDF2-SHA512), `$6$` (SHA512).

`$7$ITERATIONS$SALT$HASH` and `$6$SALT$HASH` have salt and hash in base64; the others are in the usual forms.
All functions take milliseconds to a second of CPU: they belong in a thread.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import re
import secrets
from typing import Any, Final

from fastmq.auth.scram_keys import DIGESTS, Keys, ScramError, parse, shown
from fastmq.auth.scram_keys import ITERATIONS as SCRAM_ITERATIONS

KINDS: Final = ("argon2id", "sha512-pbkdf2", "sha512", "scram-sha-256", "scram-sha-512")
"""What `make` can make, under the names of mosquitto_passwd, and for SCRAM; the first is the default."""

PASSWORD_MAX_BYTES: Final = 65_535
ITERATIONS: Final = 210_000
ITERATIONS_MAX: Final = 10_000_000
ARGON2_TIME: Final = 2
ARGON2_MEMORY_KIB: Final = 19_456
ARGON2_MEMORY_MAX_KIB: Final = 262_144
ARGON2_TIME_MAX: Final = 32
BCRYPT_COST_MAX: Final = 16
SALT_BYTES: Final = 16
SCRAM: Final = ("$scram-sha-256$", "$scram-sha-512$")

_BCRYPT: Final = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_ARGON2: Final = re.compile(
    r"\$argon2id\$v=19\$m=(\d{1,9}),t=(\d{1,6}),p=(\d{1,3})\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}"
)


class BadHash(ValueError):
    """A text is no hash that can be checked; the message says why, without the text."""


def check(hash: str) -> None:
    """Whether `verify` could work with this hash, at a bounded cost.

    :raises BadHash: it could not.
    """
    if hash.startswith("$argon2id$"):
        _argon2_costs(hash)
    elif hash.startswith(("$2a$", "$2b$", "$2y$")):
        found = _BCRYPT.fullmatch(hash)
        if found is None or not 4 <= int(found[1]) <= BCRYPT_COST_MAX:
            raise BadHash(f"is no bcrypt hash, or one of a cost above {BCRYPT_COST_MAX}")
        _bcrypt()
    elif hash.startswith("$7$"):
        _pbkdf2_parts(hash)
    elif hash.startswith("$6$"):
        _sha512_parts(hash)
    elif hash.startswith(SCRAM):
        _scram_keys(hash)
    else:
        raise BadHash("is no hash that is known here: $argon2id$, $2b$, $7$ or $6$")


def verify(hash: str, password: bytes) -> bool:
    """Whether the hash was made of this password. Compares in constant time.

    :raises BadHash: `check` would.
    """
    if len(password) > PASSWORD_MAX_BYTES:
        return False
    check(hash)
    if hash.startswith("$argon2id$"):
        from argon2.exceptions import VerifyMismatchError
        from argon2.low_level import Type, verify_secret

        try:
            return verify_secret(hash.encode(), password, Type.ID)
        except VerifyMismatchError:
            return False
    if hash.startswith("$2"):
        return b"\0" not in password and bool(_bcrypt().checkpw(password[:72], hash.encode()))
    if hash.startswith(SCRAM):
        keys = _scram_keys(hash)
        try:
            again = Keys.made(password.decode(), keys.digest, keys.salt, keys.iterations)
        except (ScramError, UnicodeDecodeError):
            return False
        return hmac.compare_digest(again.stored, keys.stored)
    if hash.startswith("$7$"):
        iterations, salt, wanted = _pbkdf2_parts(hash)
        made = hashlib.pbkdf2_hmac("sha512", password, salt, iterations, len(wanted))
    else:
        salt, wanted = _sha512_parts(hash)
        made = hashlib.sha512(password + salt).digest()
    return hmac.compare_digest(made, wanted)


def make(password: bytes, kind: str = KINDS[0], iterations: int | None = None) -> str:
    """A fresh hash of a password.

    :raises BadHash: SCRAM cannot have this password.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    if kind == "argon2id":
        from argon2.low_level import Type, hash_secret

        return hash_secret(password, salt, ARGON2_TIME, ARGON2_MEMORY_KIB, 1, 32, Type.ID).decode()
    if kind == "sha512-pbkdf2":
        iterations = iterations or ITERATIONS
        made = hashlib.pbkdf2_hmac("sha512", password, salt, iterations)
        return f"$7${iterations}${_text(salt)}${_text(made)}"
    if kind == "sha512":
        salt = salt[:12]  # what mosquitto 1.x and 2.0 can read
        return f"$6${_text(salt)}${_text(hashlib.sha512(password + salt).digest())}"
    if kind.startswith("scram-"):
        try:
            keys = Keys.made(password.decode(), DIGESTS[kind.upper()], salt, max(iterations or 0, SCRAM_ITERATIONS))
        except (ScramError, UnicodeDecodeError) as error:
            raise BadHash(f"cannot be made of this password: {error}") from None
        return shown(keys)
    raise ValueError(f"no such kind of hash: {kind}")


def nobodys(like: str) -> str:
    """A hash that no password fits, as costly as `like`: for users who do not exist. Empty: as costly as a new one."""
    if not like:
        return _nobodys(f"$argon2id$v=19$m={ARGON2_MEMORY_KIB},t={ARGON2_TIME},p=1")
    return _nobodys(like[:6] if like.startswith("$2") else like.rsplit("$", 2)[0])


@functools.lru_cache(maxsize=16)
def _nobodys(costs: str) -> str:
    """`costs`: a hash without its salt and digest."""
    password = secrets.token_hex(32).encode()
    if costs.startswith("$2"):
        salt = _bcrypt().gensalt(int(costs[4:6]))
        return str(_bcrypt().hashpw(password, salt).decode())
    if costs.startswith(SCRAM):
        kind, _, rest = costs[1:].partition("$")
        return make(password, kind, int(rest.partition("$")[0]))
    if costs.startswith("$7$"):
        return make(password, "sha512-pbkdf2", int(costs[3:]))
    if costs == "$6":
        return make(password, "sha512")
    from argon2.low_level import Type, hash_secret

    memory, time, lanes = (int(part.partition("=")[2]) for part in costs.rpartition("$")[2].split(","))
    return hash_secret(password, secrets.token_bytes(SALT_BYTES), time, memory, lanes, 32, Type.ID).decode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadHash("has a salt or a digest that is no base64") from None


def _pbkdf2_parts(hash: str) -> tuple[int, bytes, bytes]:
    parts = hash.split("$")
    if len(parts) != 5 or not (parts[2].isascii() and parts[2].isdecimal() and len(parts[2]) <= 8):
        raise BadHash("must be $7$ITERATIONS$SALT$HASH")
    iterations, salt, wanted = int(parts[2]), _bytes(parts[3]), _bytes(parts[4])
    if not 1 <= iterations <= ITERATIONS_MAX or not salt or len(wanted) != 64:
        raise BadHash(f"must have 1 to {ITERATIONS_MAX} iterations, a salt, and a digest of 64 bytes")
    return iterations, salt, wanted


def _sha512_parts(hash: str) -> tuple[bytes, bytes]:
    parts = hash.split("$")
    if len(parts) != 4:
        raise BadHash("must be $6$SALT$HASH")
    salt, wanted = _bytes(parts[2]), _bytes(parts[3])
    if not salt or len(wanted) != 64:
        raise BadHash("must have a salt, and a digest of 64 bytes")
    return salt, wanted


def _argon2_costs(hash: str) -> tuple[int, int, int]:
    """Memory in KiB, passes, lanes."""
    found = _ARGON2.fullmatch(hash)
    if found is None:
        raise BadHash("must be $argon2id$v=19$m=...,t=...,p=...$SALT$HASH")
    memory, time, lanes = (int(part) for part in found.groups())
    if not (8 * lanes <= memory <= ARGON2_MEMORY_MAX_KIB and 1 <= time <= ARGON2_TIME_MAX and 1 <= lanes <= 16):
        raise BadHash(f"costs too much, or nothing: at most m={ARGON2_MEMORY_MAX_KIB}, t={ARGON2_TIME_MAX}, p=16")
    return memory, time, lanes


def _scram_keys(hash: str) -> Keys:
    try:
        return parse(hash)
    except ValueError as error:
        raise BadHash(str(error)) from None


def _bcrypt() -> Any:
    try:
        import bcrypt
    except ImportError:
        raise BadHash("is a bcrypt hash: pip install 'fastmq[bcrypt]' to read it") from None
    return bcrypt
