"""Pre-shared keys for TLS (RFC 4279, RFC 8446 section 2.2): clients without certificates. Python has them from 3.13."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmq.errors import StartError

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHEPSK+AESGCM:ECDHEPSK+CHACHA20:PSK+AESGCM:PSK+CHACHA20:!aNULL:!eNULL"
"""Python's own list has none with such keys for TLS 1.2."""
KEY_MIN_BYTES: Final = 16
KEY_MAX_BYTES: Final = 256
"""What OpenSSL takes."""


def read(path: str) -> dict[str, bytes]:
    """The keys by identity: a line `IDENTITY:KEY` each, the key in hexadecimal digits, as Mosquitto has them.

    :raises StartError: the file cannot be used; the message names the line, never the key.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{path}: {getattr(error, 'strerror', None) or 'is not UTF-8'}") from None
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        identity, _, digits = line.rpartition(":")
        try:
            key = bytes.fromhex(digits)
        except ValueError:
            raise StartError(f"{path}:{number}: the key is not in hexadecimal digits") from None
        if not identity:
            raise StartError(f"{path}:{number}: must be IDENTITY:KEY")
        if not KEY_MIN_BYTES <= len(key) <= KEY_MAX_BYTES:
            raise StartError(f"{path}:{number}: a key has {KEY_MIN_BYTES} to {KEY_MAX_BYTES} bytes, not {len(key)}")
        keys[identity] = key
    if not keys:
        raise StartError(f"{path}: there are no keys")
    return keys


def use(context: ssl.SSLContext, key_of: Callable[[str], bytes | None], ciphers: str) -> None:
    """Lets clients in that know the key of their identity.

    :raises StartError: this Python cannot.
    """
    install: Callable[[Callable[[str | None], bytes], str], None] | None
    install = getattr(context, "set_psk_server_callback", None)
    if install is None:
        raise StartError("psk_file needs Python 3.13 or newer")
    context.set_ciphers(ciphers or CIPHERS)
    install(lambda identity: key_of(identity or "") or b"", "fastmq")  # no key: the handshake fails
