"""Clients that are let in, or refused, for what is known without asking anybody."""

import re

from fastmq.config import networks
from fastmq.config.auth import ClientRules
from fastmq.contracts import Authentication, Credentials
from fastmq.reasons import Reason


class ByClient:
    """Implements `contracts.Authenticator`."""

    def __init__(self, settings: ClientRules) -> None:
        self._allow = settings.permission == "allow"
        self._client_id = _pattern(settings.client_id_regex)
        self._username = _pattern(settings.username_regex)
        self._certificate = _pattern(settings.certificate_regex)
        self._networks = networks.parse(settings.addresses)

    async def authenticate(self, credentials: Credentials) -> Authentication | None:
        subject = credentials.certificate.subject if credentials.certificate is not None else None
        fits = (
            _fits(self._client_id, credentials.client_id)
            and _fits(self._username, credentials.username)
            and _fits(self._certificate, subject)
            and (not self._networks or networks.is_within(credentials.address, self._networks))
        )
        if not fits:
            return None
        return Authentication() if self._allow else Authentication(reason=Reason.NOT_AUTHORIZED, why="its rule")


def _pattern(text: str) -> re.Pattern[str] | None:
    return re.compile(text) if text else None


def _fits(pattern: re.Pattern[str] | None, text: str | None) -> bool:
    return pattern is None or (text is not None and pattern.fullmatch(text) is not None)
