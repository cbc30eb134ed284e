"""Fixtures: brokers that live for the whole session, clients and topics that belong to one test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from tests.spec.brokers import Address, Settings, running
from tests.wireclient import Client, Connack, Will
from tests.wireclient.encode import Text
from tests.wireclient.properties import Properties


class Join(Protocol):
    def __call__(
        self,
        version: int = 5,
        client_id: Text | None = None,
        *,
        at: Address | None = None,
        clean: bool = True,
        keep_alive: int = 60,
        props: Properties = (),
        will: Will | None = None,
        username: Text | None = None,
        password: bytes | None = None,
    ) -> Client: ...


class Dial(Protocol):
    def __call__(self, version: int = 5, *, at: Address | None = None) -> Client: ...


@pytest.fixture(scope="session")
def broker() -> Iterator[Address]:
    """The broker as it comes: no settings."""
    with running({}) as address:
        yield address


@pytest.fixture(scope="session")
def limited() -> Iterator[Address]:
    """A broker with low limits, each of which a test reaches."""
    settings: Settings = {
        "mqtt.packet_max_bytes": 2000,
        "mqtt.receive_maximum": 3,
        "mqtt.topic_alias_maximum": 5,
        "mqtt.keepalive_max_s": 2,
        "mqtt.session_expiry_max_s": 1,
        "mqtt.client_id_max_bytes": 64,
        "mqtt.topic_levels_max": 8,
        "mqtt.connect_timeout_s": 1,
        "mqtt.response_information": "answers/",
        "limits.subscriptions_max": 4,
    }
    with running(settings) as address:
        yield address


@pytest.fixture(scope="session")
def restricted() -> Iterator[Address]:
    """A broker without the optional features."""
    settings = {
        "mqtt.maximum_qos": 1,
        "mqtt.topic_alias_maximum": 0,
        "mqtt.retain_available": False,
        "mqtt.wildcard_available": False,
        "mqtt.shared_available": False,
        "mqtt.subscription_id_available": False,
    }
    with running(settings) as address:
        yield address


@pytest.fixture(scope="session")
def guarded() -> Iterator[Address]:
    """A broker that lets nobody in without a name."""
    with running({"auth.allow_anonymous": False}) as address:
        yield address


@pytest.fixture(scope="session")
def only_311() -> Iterator[Address]:
    """A broker that speaks MQTT 3.1.1 and nothing else."""
    with running({"mqtt.accept_versions": "4"}) as address:
        yield address


@pytest.fixture(scope="session")
def challenging() -> Iterator[Address]:
    """A broker with a method of enhanced authentication."""
    with running({}, "tests.spec.challenging") as address:
        yield address


@pytest.fixture
def dial(broker: Address) -> Iterator[Dial]:
    """Opens connections on which nothing was sent."""
    opened: list[Client] = []

    def open_one(version: int = 5, *, at: Address | None = None) -> Client:
        client = Client(at or broker, version)
        opened.append(client)
        return client

    yield open_one
    for client in opened:
        client.close()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Names that no other test uses."""

    def name(prefix: str = "c") -> str:
        return f"{prefix}{uuid.uuid4().hex[:12]}"

    return name


@pytest.fixture
def topic(unique: Callable[[str], str]) -> str:
    return unique("t/")


@pytest.fixture
def cid(unique: Callable[[str], str]) -> str:
    """A client id that no other test uses."""
    return unique("c")


@pytest.fixture
def join(dial: Dial, unique: Callable[[str], str]) -> Join:
    """Opens a connection and completes CONNECT; the broker must accept."""

    def joined(
        version: int = 5,
        client_id: Text | None = None,
        *,
        at: Address | None = None,
        clean: bool = True,
        keep_alive: int = 60,
        props: Properties = (),
        will: Will | None = None,
        username: Text | None = None,
        password: bytes | None = None,
    ) -> Client:
        client = dial(version, at=at)
        connack: Connack = client.connect(
            unique("c") if client_id is None else client_id,
            clean=clean,
            keep_alive=keep_alive,
            props=props,
            will=will,
            username=username,
            password=password,
        )
        assert connack.code == 0, connack
        return client

    return joined
