"""What a broker keeps of a password for SCRAM (RFC 5803): `$scram-sha-256$ITERATIONS$SALT$STORED$SERVER`, in base64.

Who steals it can ask others for proof, but not give one.
"""

import base64
import binascii
import hashlib
import hmac
import stringprep
import unicodedata
from dataclasses import dataclass
from typing import Final

DIGESTS: Final = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
ITERATIONS: Final = 4096
"""The client repeats the hash that often, on whatever CPU it has (RFC 7677, section 4)."""
ITERATIONS_MAX: Final = 10_000_000


class ScramError(ValueError):
    """The client breaks the protocol, or its proof is wrong; the message is for the log."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What is kept of a password."""

    digest: str
    iterations: int
    salt: bytes
    stored: bytes
    server: bytes

    @classmethod
    def made(cls, password: str, digest: str, salt: bytes, iterations: int) -> "Keys":
        """Of a password."""
        salted = hashlib.pbkdf2_hmac(digest, prepared(password).encode(), salt, iterations)
        client = hmac.digest(salted, b"Client Key", digest)
        return cls(
            digest, iterations, salt, hashlib.new(digest, client).digest(), hmac.digest(salted, b"Server Key", digest)
        )


def parse(hash: str) -> Keys:
    """The keys in a line of a password file.

    :raises ValueError: they are malformed.
    """
    parts = hash.split("$")
    if len(parts) != 6 or not (parts[2].isascii() and parts[2].isdecimal()) or len(parts[2]) > 8:
        raise ValueError("must be $scram-sha-256$ITERATIONS$SALT$STORED$SERVER")
    digest = DIGESTS[parts[1].upper()]
    try:
        salt, stored, server = (base64.b64decode(part, validate=True) for part in parts[3:])
    except binascii.Error:
        raise ValueError("has a salt or a key that is no base64") from None
    size = hashlib.new(digest).digest_size
    if not ITERATIONS <= int(parts[2]) <= ITERATIONS_MAX or not salt or len(stored) != size or len(server) != size:
        raise ValueError(f"must have {ITERATIONS} to {ITERATIONS_MAX} iterations, a salt, and keys of {size} bytes")
    return Keys(digest, int(parts[2]), salt, stored, server)


def shown(keys: Keys) -> str:
    """As a line of a password file has them."""
    parts = (base64.b64encode(part).decode() for part in (keys.salt, keys.stored, keys.server))
    return "$".join(("", f"scram-{keys.digest[:3]}-{keys.digest[3:]}", str(keys.iterations), *parts))


def prepared(text: str) -> str:
    """SASLprep (RFC 4013).

    :raises ScramError: it has characters that may not be.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(each) else each for each in text if not stringprep.in_table_b1(each)
    )
    found = unicodedata.normalize("NFKC", mapped)
    if not found:
        raise ScramError("nothing is left of a text")
    forbidden = (
        stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
        stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
        stringprep.in_table_c9, stringprep.in_table_a1,
    )  # fmt: skip
    if any(test(each) for each in found for test in forbidden):
        raise ScramError("a text has characters that may not be in it")
    if any(map(stringprep.in_table_d1, found)) and (
        any(map(stringprep.in_table_d2, found))
        or not (stringprep.in_table_d1(found[0]) and stringprep.in_table_d1(found[-1]))
    ):
        raise ScramError("a text mixes directions of writing")
    return found
