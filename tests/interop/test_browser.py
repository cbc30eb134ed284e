"""MQTT.js in headless Chromium comes in over ws and wss; pages of other origins stay outside."""

from __future__ import annotations

import hmac
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.brokerdoors import issue
from tests.brokerproc import HOST, Setting, ended_cleanly, start_fastmq

NODE = Path(__file__).resolve().parent / "node"


class Doors(NamedTuple):
    ws: str
    wss: str


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("browser")
    issue(folder)
    origins = ["https://page.example"]
    listeners = (
        {"url": f"ws://{HOST}:0", "origins": origins},
        {"url": f"wss://{HOST}:0/secure", "origins": origins, "certificates": [str(folder / "server.pem")]},
    )
    with ended_cleanly(start_fastmq(listen=json.dumps(listeners))) as broker:
        found = broker.await_log(r"listening on wss://[^:]+:(\d+)")
        yield Doors(f"ws://{HOST}:{broker.port}/mqtt", f"wss://{HOST}:{found[1]}/secure")


def visit(origin: str, url: str, version: int, topic: str, *cookie: str) -> list[str]:
    command = ["node", str(NODE / "browser.mjs"), origin, url, str(version), topic, *cookie]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("door", ["ws", "wss"])
def test_a_page_connects(doors: Doors, topic: str, door: str, version: int) -> None:
    # A page that came by https may open ws:// to this machine only.
    lines = visit("https://page.example/", getattr(doors, door), version, topic)
    assert lines == [f"came {topic} 5", f"came {topic} 70000"]


def test_a_page_of_another_origin_stays_outside(doors: Doors, topic: str) -> None:
    assert visit("https://evil.example/", doors.wss, 5, topic) == ["refused"]
    assert re.fullmatch(r"came .* 5", visit("https://page.example/", doors.wss, 5, topic)[0])


def test_a_browser_is_known_by_its_cookie(topic: str) -> None:
    """As a page of the same site has it; another page that the same browser has open does not get in with it."""
    chain = [{"method": "cookie", "cookie": "sid", "secret": "s3cret", "encoding": "hex"}]
    settings: dict[str, Setting] = {"auth.allow_anonymous": False, "auth.chain": json.dumps(chain)}
    listener = {"url": f"ws://{HOST}:0", "origins": [f"http://{HOST}"]}
    cookie = "sid=ada." + hmac.digest(b"s3cret", b"ada", "sha256").hex()
    with ended_cleanly(start_fastmq(settings, listen=json.dumps([listener]))) as broker:
        url = f"ws://{HOST}:{broker.port}/mqtt"
        assert visit(f"http://{HOST}/", url, 5, topic, cookie) == [f"came {topic} 5", f"came {topic} 70000"]
        assert visit(f"http://{HOST}/", url, 5, topic, cookie[:-1] + "x") == ["refused"]
        assert visit(f"http://{HOST}/", url, 5, topic) == ["refused"]
        assert visit("http://evil.example/", url, 5, topic, cookie) == ["refused"]
