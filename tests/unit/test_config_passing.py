"""Settings that a parent passes to its workers."""

import os
from pathlib import Path

from fastmq.config import Config, Listener
from fastmq.config.acl import Allow
from fastmq.config.auth import BuiltIn, Http
from fastmq.config.bans import ClientId
from fastmq.config.databases import Ldap
from fastmq.config.durability import TopicDurability
from fastmq.config.passing import passed, received
from fastmq.config.place import Place
from fastmq.config.schema import AclSettings, AuthSettings, BanSettings, StoreSettings
from fastmq.config.secret import Secret


def test_settings_arrive_as_they_were_as_often_as_workers_start(tmp_path: Path) -> None:
    config = Config(
        listen=(Listener("tls", "::1", 8883, certificates=("a.pem",)), Listener("unix", "/run/x", 0)),
        auth=AuthSettings(chain=(BuiltIn(), Http(url="http://x", headers=("a: b",)))),
        acl=AclSettings(rules=(Allow(topics=("a/#",), usernames=("ada",)),)),
        bans=BanSettings(rules=(ClientId(value="c", until="2027-01-31T12:00:00Z"),)),
        store=StoreSettings(topics=(TopicDurability("a/#", "os"),)),
    )
    with passed(config, str(tmp_path)) as file:
        assert list(tmp_path.iterdir()) == []  # nobody can open it by a name
        for _ in range(3):
            assert received(os.dup(file.fileno())) == config


def test_a_secret_arrives_and_stays_one(tmp_path: Path) -> None:
    config = Config(auth=AuthSettings(chain=(Ldap(search_password=Secret("hush")),)))
    with passed(config, str(tmp_path)) as file:
        (step,) = received(os.dup(file.fileno())).auth.chain
    assert isinstance(step, Ldap)
    assert (step.search_password, repr(step.search_password)) == ("hush", "Secret('***')")


def test_a_place_arrives() -> None:
    place = Place(index=1, count=3, folder="/x", listeners=(4, 5), status=6, settings=7)
    assert Place.of({"FASTMQ_PLACE": place.to_text()}) == place
    assert Place.of({}) == Place()
