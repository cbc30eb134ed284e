"""What can go wrong between a client and its server, said in the server's words."""

from fastmq.errors import FastmqError
from fastmq.reasons import ConnectReturn, Reason

__all__ = ["ClientError", "ConnectRefused", "ConnectionLost", "Refused", "reason_name"]


def reason_name(reason: int, version: int = 5) -> str:
    """`not authorized (0x87)`; for a CONNACK before MQTT 5 the name of the return code."""
    names = Reason if version == 5 or reason >= 0x80 else ConnectReturn
    try:
        return f"{names(reason).name.lower().replace('_', ' ')} (0x{reason:02X})"
    except ValueError:
        return f"reason 0x{reason:02X}"


class ClientError(FastmqError):
    """Every error of a client that is not a mistake of its caller."""


class Refused(ClientError):
    """The server answered with a failure, or has said beforehand that it would."""

    def __init__(self, what: str, reason: int, explanation: str | None = None, *, version: int = 5) -> None:
        self.reason = reason
        self.explanation = explanation
        """The server's reason string, if it sent one."""
        super().__init__(f"{what}: {reason_name(reason, version)}" + (f": {explanation}" if explanation else ""))


class ConnectRefused(Refused):
    """CONNACK with a failure. `reason` is the return code 1-5 before MQTT 5."""


class ConnectionLost(ClientError):
    """The connection is gone. `reason` is what the server's DISCONNECT said, None without one."""

    def __init__(self, message: str, reason: int | None = None) -> None:
        self.reason = reason
        super().__init__(message)
