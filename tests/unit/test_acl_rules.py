"""What rules of access control say: the settings', Mosquitto's file, and what they become for one client."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq.auth import acl_file
from fastmq.auth.access import AccessControl
from fastmq.auth.rules import filled
from fastmq.auth.text_file import TextFileError
from fastmq.auth.work import Work
from fastmq.config import load
from fastmq.config.acl import Allow, Deny
from fastmq.config.schema import AclSettings
from fastmq.contracts import Client
from fastmq.errors import ConfigError

ADA = Client(client_id="c1", username="ada", address="10.1.2.3", listener="devices")


def control(**settings: object) -> AccessControl:
    return AccessControl(AclSettings(**settings), Work(1))  # type: ignore[arg-type]


def may(rules: AccessControl, client: Client, topic: str, qos: int = 0, retain: bool = False) -> tuple[bool, str]:
    """Whether the client may publish, and which rule says so."""
    access = rules.compiled(client)
    allowed, rule = access.publish(topic.encode(), qos, retain)
    return allowed, rules.place(access.serial, rule)


def test_the_first_rule_that_fits_decides() -> None:
    rules = control(rules=(Deny(topics=("a/secret/#",)), Allow(topics=("a/#",)), Deny(topics=("a/b",))))
    assert may(rules, ADA, "a/b") == (True, "acl.rules[1]")
    assert may(rules, ADA, "a/secret/x") == (False, "acl.rules[0]")
    assert may(rules, ADA, "c") == (False, "acl.no_match")
    assert may(control(rules=(Deny(topics=("x",)),), no_match="allow"), ADA, "c") == (True, "acl.no_match")


@pytest.mark.parametrize(
    ("rule", "fits", "not_for"),
    [
        (Allow(topics=("t",), usernames=("ada",)), ADA, Client(client_id="c1", username="bob")),
        (Allow(topics=("t",), usernames=("",)), Client(client_id="c1"), ADA),
        (Allow(topics=("t",), username_regex="a.a"), ADA, Client(client_id="c1", username="xada")),
        (Allow(topics=("t",), username_regex=".*"), ADA, Client(client_id="c1")),
        (Allow(topics=("t",), client_ids=("c1", "c2")), ADA, Client(client_id="c")),
        (Allow(topics=("t",), client_id_regex="c[0-9]"), ADA, Client(client_id="c10")),
        (Allow(topics=("t",), addresses=("10.0.0.0/8",)), ADA, Client(client_id="c", address="11.0.0.1")),
        (Allow(topics=("t",), addresses=("10.0.0.0/8",)), Client(client_id="c", address="::ffff:10.0.0.1"),
         Client(client_id="c", address="")),
        (Allow(topics=("t",), listeners=("devices",)), ADA, Client(client_id="c1", username="ada", listener="x")),
        (Allow(topics=("t",), groups=("a", "b")), Client(client_id="c", groups=("x", "b")),
         Client(client_id="c", groups=("x",))),
        (Allow(topics=("t",), certificate_regex="CN=.*,O=b"), Client(client_id="c", certificate="CN=a,O=b"), ADA),
        (Allow(topics=("t",), usernames=("ada",), client_ids=("c1",)), ADA, Client(client_id="c2", username="ada")),
    ],
)  # fmt: skip
def test_a_rule_is_for_whom_it_names(rule: Allow, fits: Client, not_for: Client) -> None:
    assert may(control(rules=(rule,)), fits, "t")[0]
    assert not may(control(rules=(rule,)), not_for, "t")[0]


def test_qos_retain_and_action() -> None:
    rules = control(rules=(Allow(topics=("t",), qos=(0, 1), retain="no", action="publish"),))
    assert [may(rules, ADA, "t", qos)[0] for qos in (0, 1, 2)] == [True, True, False]
    assert not may(rules, ADA, "t", 0, retain=True)[0]
    assert rules.compiled(ADA).subscribe(b"t") == (False, -1)


@pytest.mark.parametrize(
    ("filter", "allowed", "denied"),
    [
        ("d/${clientid}/#", "d/c1/#", "d/c1/#"),
        ("d/x-${username}", "d/x-ada", "d/x-ada"),
        ("${peerhost}/${listener}", "10.1.2.3/devices", "10.1.2.3/devices"),
        ("a/${$}{clientid}", "a/${clientid}", "a/${clientid}"),
    ],
)
def test_places_are_filled(filter: str, allowed: str, denied: str) -> None:
    assert (filled(filter, ADA, True), filled(filter, ADA, False)) == (allowed, denied)


@pytest.mark.parametrize("name", ["#", "+", "a/+", "x+", "#x", "/#"])
def test_a_client_cannot_widen_a_rule_by_its_name(name: str) -> None:
    client = Client(client_id=name, username=name)
    assert filled("d/${clientid}/up", client, True) is None
    assert filled("d/${clientid}/up", client, False) == "d/#"
    assert filled("x-${username}", client, False) == "#"


def test_what_is_not_known_of_a_client_makes_no_rule() -> None:
    assert filled("d/${username}/#", Client(client_id="c"), True) is None
    assert filled("d/${username}/#", Client(client_id="c"), False) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('topics = []', "acl.rules[0].topics: must not be empty"),
        ('topics = ["a/#/b"]', "acl.rules[0].topics: 'a/#/b': '#' is allowed only as the last level"),
        ('topics = ["${clientId}"]', "acl.rules[0].topics: '${clientId}': ${clientId} is unknown; there are"),
        ('topics = ["eq "]', "acl.rules[0].topics: 'eq ': after `eq ` there must be a filter"),
        ('topics = ["a"]\nqos = [3]', "acl.rules[0].qos: must be one of 0, 1, 2, not 3"),
        ('topics = ["a"]\nusername_regex = "("', "acl.rules[0].username_regex: is no regular expression"),
        ('topics = ["a"]\naddresses = ["10.0.0.1/8"]', "acl.rules[0].addresses: 10.0.0.1/8 has host bits set"),
        ('topics = ["a"]\naddresses = ["here"]', "acl.rules[0].addresses: 'here' does not appear to be"),
        ('topics = ["a"]\nuser = "b"', "acl.rules[0].user: no such setting; did you mean usernames?"),
    ],
)  # fmt: skip
def test_a_wrong_rule_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "fastmq.toml"
    path.write_text(f'[[acl.rules]]\npermission = "allow"\n{text}\n')
    with pytest.raises(ConfigError) as refused:
        load(path, {})
    assert says in str(refused.value)


FILE = """\
# who has no name
topic read public/#

user ada
topic write ada/in
topic deny ada/in/x
topic with-readwrite
topic readwrite a topic with spaces
user bob smith
topic #
pattern read p/%c
pattern deny p/c9
"""


def test_mosquittos_file() -> None:
    rules = acl_file.parse(FILE, "f")
    assert [(rule.filter, rule.allow, rule.actions, rule.place) for rule in rules.rules(ADA)] == [
        ("ada/in/x", False, 3, "f:6"),
        ("ada/in", True, 1, "f:5"),
        ("with-readwrite", True, 3, "f:7"),
        ("a topic with spaces", True, 3, "f:8"),
        ("p/c9", False, 3, "f:12"),
        ("p/${clientid}", True, 2, "f:11"),
    ]
    assert next(iter(rules.rules(Client(client_id="x")))).filter == "public/#"
    assert next(iter(rules.rules(Client(client_id="x", username="bob smith")))).filter == "#"


BAD_LINES = [
    ("topic", "f:1: '': "),
    ("topic ", "f:1: '': "),
    ("user", "f:1: after `user` there must be a user name"),
    ("user \t", "f:1: after `user` there must be a user name"),
    ("users ada", "f:1: must begin with user, topic or pattern, not 'users'"),
    ("\n\ntopik a", "f:3: must begin with user, topic or pattern, not 'topik'"),
    ("topic write a/#/b", "f:1: 'write a/#/b': '#' is allowed only as the last level"),
    ("topic a+", "f:1: 'a+': '+' must fill its level"),
    ("topic own a", "f:1: must be read, write, readwrite or deny, and then the topic, not 'own'"),
    ("pattern read", "f:1: 'read': "),
    ("pattern read %u#", "'#' must fill its level"),
    ("topic write " + "a/" * 200, "f:1: "),
    ("topic write " + "a" * 65536, "f:1: "),
    ("topic read a\0b", "f:1: "),
    (" # a comment must begin the line", "f:1: must begin with user, topic or pattern, not '#'"),
    ("TOPIC a", "not 'TOPIC'"),
    ("user a\0", "f:1: after `user`"),
]


@pytest.mark.parametrize(("text", "says"), [each for each in BAD_LINES if each[0] != "pattern read"])
def test_a_wrong_line_is_named(text: str, says: str) -> None:
    with pytest.raises(TextFileError) as refused:
        acl_file.parse(text, "f")
    assert says in str(refused.value)


@given(st.text(), st.sampled_from(("topic ", "pattern ", "user ", "topic read ", "")))
def test_any_text_is_rules_or_an_error_of_ours(text: str, word: str) -> None:
    with contextlib.suppress(TextFileError):
        for rule in acl_file.parse(word + text, "f").rules(ADA):
            rule.line(ADA)


def test_a_file_that_becomes_wrong_leaves_what_was(tmp_path: Path) -> None:
    path = tmp_path / "acl"
    path.write_text("user ada\ntopic a\n")
    with pytest.raises(TextFileError, match="No such file"):
        control(file=str(tmp_path / "none"))
    assert may(control(file=str(path)), ADA, "a") == (True, f"{path}:2")


def explain(*words: str, **settings: object) -> tuple[int, list[str]]:
    env = {f"FASTMQ_ACL__{key.upper()}": str(value) for key, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", "fastmq", "acl", "explain", *words],
        capture_output=True, text=True, env={**os.environ, **env}, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, [" ".join(line.split()) for line in (done.stdout or done.stderr).splitlines()]


def test_explain() -> None:
    rules = json.dumps([{"permission": "allow", "topics": ["a/${clientid}"], "action": "publish"}])
    assert explain("-i", "x", "-t", "a/x", rules=rules) == (
        1,
        ["publish allowed acl.rules[0]", "subscribe denied acl.no_match", "read denied acl.no_match"],
    )
    assert explain("-i", "x", "-t", "a/x", "--action", "publish", rules=rules) == (0, ["publish allowed acl.rules[0]"])
    grouped = json.dumps([{"permission": "allow", "topics": ["a"], "groups": ["ops"], "certificate_regex": "CN=x"}])
    known = ("--group", "ops", "--certificate", "CN=x")
    assert explain("-t", "a", "--action", "read", *known, rules=grouped) == (0, ["read allowed acl.rules[0]"])
    assert explain("-t", "a", "--action", "read", "--group", "ops", rules=grouped)[0] == 1
    assert explain("-t", "a/#", rules=rules) == (1, ["subscribe denied acl.no_match"])
    assert explain("-t", "a/#/b", rules=rules)[0] == 2
    assert explain("-t", "a", "--action", "publish")[1] == [
        "There are no rules: see acl.rules and acl.file. Everything is allowed."
    ]
