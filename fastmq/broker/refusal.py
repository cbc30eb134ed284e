"""A CONNECT that is not accepted, and why."""

from fastmq.reasons import Reason


class Refusal(Exception):
    """The CONNECT is answered with this reason."""

    def __init__(self, reason: Reason, why: str = "") -> None:
        super().__init__(reason.name)
        self.reason = reason
        self.why = why
        """For the log; the client hears no more than the reason."""
