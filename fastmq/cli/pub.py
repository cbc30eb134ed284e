"""`fastmq pub`: publish messages. The options are mosquitto_pub's."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import click

from fastmq import topics
from fastmq.cli.options import ConnectionOptions, complain, connection_options, run
from fastmq.cli.properties import PropertyCommand, properties_of
from fastmq.client import Client, Properties, Reconnect, Refused
from fastmq.errors import FastmqError

_READ_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What `fastmq pub` is to send."""

    topic: str
    payload: bytes | None  # None: a message for each line of the standard input
    qos: int
    retain: bool
    repeat: int
    repeat_delay_s: float
    properties: Properties
    goodbye: Properties | None


@click.command("pub", cls=PropertyCommand, context_settings={"help_option_names": ["--help"]})
@click.option("-t", "--topic", metavar="TOPIC", help="Where to publish.")
@click.option("-m", "--message", metavar="TEXT", help="The message.")
@click.option("-f", "--file", "path", type=click.Path(exists=True, dir_okay=False), help="A file with the message.")
@click.option("-l", "--stdin-line", is_flag=True, help="A message for each line of the standard input.")
@click.option("-s", "--stdin-file", is_flag=True, help="The standard input as one message.")
@click.option("-n", "--null-message", is_flag=True, help="An empty message; with -r it clears the retained one.")
@click.option("-q", "--qos", type=click.IntRange(0, 2), default=0, show_default=True, help="QoS.")
@click.option("-r", "--retain", is_flag=True, help="Let the broker retain the message.")
@click.option("--repeat", type=click.IntRange(1), default=1, help="Publish so many times (not with -l).")
@click.option("--repeat-delay", "repeat_delay_s", type=click.FloatRange(0), default=0.0, help="Seconds in between.")
@connection_options
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Publish messages.

    \b
    fastmq pub -t sensors/kitchen -m 21.5 -r
    tail -f log | fastmq pub -t log -l -q 1
    fastmq pub -t jobs -f job.json -q 2 -D publish content-type application/json

    Ends with 0, with the broker's code when it refuses the connection, or with 1: also when it refuses a message.
    """
    options = ConnectionOptions.take(given)
    sending = _sending(ctx, options, given)
    client = options.client(ctx, reconnect=Reconnect() if sending.payload is None else None)
    ctx.exit(run(options, _publish(client, options, sending)))


def _sending(ctx: click.Context, options: ConnectionOptions, given: dict[str, Any]) -> Sending:
    topic = given["topic"] or options.url_topic
    if topic is None:
        raise click.UsageError("Say with -t where to publish.")
    try:
        topics.validate_name(topic, 65_535)
    except FastmqError as e:
        raise click.UsageError(f"{topic!r}: {e}") from e
    sources = [name for name in ("message", "path") if given[name] is not None]
    sources += [name for name in ("stdin_line", "stdin_file", "null_message") if given[name]]
    if len(sources) != 1:
        raise click.UsageError("Say what to publish with one of -m, -f, -l, -s and -n.")
    properties = properties_of(ctx)
    return Sending(
        topic=topic,
        payload=_payload(sources[0], given),
        qos=given["qos"],
        retain=given["retain"],
        repeat=given["repeat"],
        repeat_delay_s=given["repeat_delay_s"],
        properties=properties.get("publish", Properties()),
        goodbye=properties.get("disconnect"),
    )


def _payload(source: str, given: dict[str, Any]) -> bytes | None:
    if source == "message":
        return str(given["message"]).encode("utf-8", "surrogateescape")
    if source == "path":
        with open(given["path"], "rb") as file:
            return file.read()
    if source == "stdin_file":
        return sys.stdin.buffer.read()
    return b"" if source == "null_message" else None


async def _publish(client: Client, options: ConnectionOptions, sending: Sending) -> int:
    failures = 0
    await client.connect()
    try:
        if sending.payload is None:
            failures = await _publish_lines(client, options, sending)
        else:
            failures = await _publish_repeatedly(client, options, sending, sending.payload)
        await client.disconnect(properties=sending.goodbye)
    finally:
        await client.disconnect()
    return 1 if failures else 0


async def _publish_repeatedly(client: Client, options: ConnectionOptions, sending: Sending, payload: bytes) -> int:
    failures = 0
    for turn in range(sending.repeat):
        if turn and sending.repeat_delay_s:
            await asyncio.sleep(sending.repeat_delay_s)
        try:
            await client.publish(sending.topic, payload, sending.qos, sending.retain, sending.properties)
        except Refused as e:
            complain(options, f"Warning: {e}")
            failures += 1
    return failures


async def _publish_lines(client: Client, options: ConnectionOptions, sending: Sending) -> int:
    """Lines are sent as they come; only the broker's receive maximum and the socket slow them."""
    failures = 0
    open_ones: set[asyncio.Future[int]] = set()

    def count(done: "asyncio.Future[int]") -> None:
        nonlocal failures
        open_ones.discard(done)
        if not done.cancelled() and (error := done.exception()) is not None:
            complain(options, f"Warning: {error}")
            failures += 1

    async for line in _lines():
        done = await client.publish_soon(sending.topic, line, sending.qos, sending.retain, sending.properties)
        if done.done():
            count(done)
        else:
            open_ones.add(done)
            done.add_done_callback(count)
    while open_ones:
        await asyncio.wait(open_ones)
    return failures


async def _lines() -> AsyncIterator[bytes]:
    """The lines of the standard input, without their ends, as soon as they are there."""
    chunks: asyncio.Queue[bytes] = asyncio.Queue(1)
    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()

    def read() -> None:
        chunk = b" "
        while chunk:
            chunk = os.read(stdin, _READ_BYTES)
            asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()

    # A file cannot be awaited, so a thread reads; as a daemon, for nobody can interrupt its read at Ctrl-C.
    threading.Thread(target=read, daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest
