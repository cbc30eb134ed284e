"""`fastmq sub`: subscribe, and print what arrives. The options are mosquitto_sub's."""

import asyncio
import contextlib
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

import click

from fastmq import topics
from fastmq.cli.options import EXIT_TIMEOUT, ConnectionOptions, complain, connection_options, run
from fastmq.cli.output import Arrival, FormatError, NotJson, Piece, compile_format, plain, verbose
from fastmq.cli.properties import PropertyCommand, properties_of
from fastmq.client import Client, Publish, Reconnect, Refused, SubscriptionRequest
from fastmq.client.errors import reason_name
from fastmq.errors import FastmqError
from fastmq.packets import Properties

_ANY_LEVELS: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What `fastmq sub` is to receive, show, and when it is to stop."""

    topics: list[str]
    unsubscribe: list[str]
    filter_out: list[str]
    qos: int
    count: int
    timeout_s: float
    exit_after_subscribe: bool
    no_retained: bool
    retained_only: bool
    remove_retained: bool
    retain_as_published: bool
    percent: float
    newline: bool
    show: Piece
    properties: dict[str, Properties] = field(default_factory=dict)


@click.command("sub", cls=PropertyCommand, context_settings={"help_option_names": ["--help"]})
@click.option("-t", "--topic", "topic", multiple=True, metavar="FILTER", help="Subscribe to this; repeatable.")
@click.option("-q", "--qos", type=click.IntRange(0, 2), default=0, show_default=True, help="QoS to ask for.")
@click.option("-U", "--unsubscribe", multiple=True, metavar="FILTER", help="Then unsubscribe from this; repeatable.")
@click.option("-T", "--filter-out", multiple=True, metavar="FILTER", help="Do not print these topics; repeatable.")
@click.option("-v", "--verbose", "is_verbose", is_flag=True, help='Print "topic payload".')
@click.option("-F", "output", metavar="FORMAT", help="Print in this format: see below.")
@click.option("-N", "no_newline", is_flag=True, help="Print no end of line after a message.")
@click.option("-C", "count", type=click.IntRange(1), help="Stop after so many messages.")
@click.option("-W", "timeout_s", type=click.FloatRange(0, min_open=True), help="Stop after so many seconds (exit 27).")
@click.option("-E", "exit_after_subscribe", is_flag=True, help="Stop once the subscriptions are made.")
@click.option("-R", "no_retained", is_flag=True, help="Do not print retained messages.")
@click.option("--retained-only", is_flag=True, help="Stop at the first message that is not retained.")
@click.option("--remove-retained", is_flag=True, help="Clear the retained messages that come.")
@click.option("--retain-as-published", is_flag=True, help="See the retain flag as it was published (MQTT 5).")
@click.option("--random-filter", "percent", type=click.FloatRange(0.1, 100), default=100, help="Print so many percent.")
@click.option("--pretty", is_flag=True, help="%j and %J over several lines.")
@connection_options
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Subscribe, and print what arrives.

    \b
    fastmq sub -t 'sensors/#' -v
    fastmq sub -t 'sensors/+/state' -F '%I %t %p' -C 10 -W 60

    \b
    Formats (-F):  %t topic   %p payload  %x %X payload in hex   %l its length
      %q QoS       %r retain  %m packet identifier               %j %J JSON
      %I time      %U Unix time with nanoseconds   @X strftime   @N nanoseconds
      %A topic alias  %C content type   %D correlation data  %E message expiry
      %F payload format  %P user properties  %R response topic  %S subscription id
      %% @@ \\\\ themselves,  \\n \\r \\t \\a \\e \\v \\0 characters
      Between % and letter: 0 or - to pad, a width, and .N to cut: %-20.20t

    Ends with 0, with 27 after -W, with the broker's code when it refuses the connection, or with 1.
    """
    options = ConnectionOptions.take(given)
    wanted = _wanted(options, properties_of(ctx), given)
    needs_5 = 5 if wanted.retain_as_published else None
    client = options.client(ctx, reconnect=Reconnect(), version=needs_5)
    ctx.exit(run(options, _subscribe(client, options, wanted)))


def _wanted(options: ConnectionOptions, properties: dict[str, Properties], given: dict[str, Any]) -> Wanted:
    filters = [*given.pop("topic"), *([options.url_topic] if options.url_topic else [])]
    unsubscribe = list(given.pop("unsubscribe"))
    filter_out = list(given.pop("filter_out"))
    if not filters and not unsubscribe:
        raise click.UsageError("Say with -t what to subscribe to.")
    try:
        for each in (*filters, *unsubscribe, *filter_out):
            topics.parse_subscription(each, _ANY_LEVELS)
    except FastmqError as e:
        raise click.UsageError(f"{each!r}: {e}") from e
    output, pretty, is_verbose = given.pop("output"), given.pop("pretty"), given.pop("is_verbose")
    try:
        show = compile_format(output, pretty=pretty) if output is not None else verbose if is_verbose else plain
    except FormatError as e:
        raise click.BadParameter(str(e), param_hint="-F") from e
    return Wanted(
        topics=filters,
        unsubscribe=unsubscribe,
        filter_out=filter_out,
        newline=not given.pop("no_newline"),
        show=show,
        count=given.pop("count") or 0,
        timeout_s=given.pop("timeout_s") or 0.0,
        properties=properties,
        **given,
    )


async def _subscribe(client: Client, options: ConnectionOptions, wanted: Wanted) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    code = 0
    try:
        async with asyncio.timeout(wanted.timeout_s or None):
            await client.connect()
            code = await _ask(client, options, wanted)
            if code == 0 and not wanted.exit_after_subscribe:
                await _print(client, options, wanted)
    except TimeoutError:
        complain(options, "Timed out")
        code = EXIT_TIMEOUT
    except asyncio.CancelledError:  # Ctrl-C is how one leaves
        task.uncancel()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        if client.is_connected:
            await client.disconnect(properties=wanted.properties.get("disconnect"))
        else:
            await client.disconnect()
    return code


async def _ask(client: Client, options: ConnectionOptions, wanted: Wanted) -> int:
    requests = [
        SubscriptionRequest(each, wanted.qos, retain_as_published=wanted.retain_as_published) for each in wanted.topics
    ]
    if requests:
        try:
            reasons = await client.subscribe(*requests, properties=wanted.properties.get("subscribe"))
        except Refused as e:
            complain(options, f"All subscription requests were denied: {e}")
            return 1
        for request, reason in zip(requests, reasons, strict=False):
            if reason >= 0x80:
                complain(options, f"Warning: subscription to {request.filter} denied: {reason_name(reason)}")
    if wanted.unsubscribe:
        await client.unsubscribe(*wanted.unsubscribe, properties=wanted.properties.get("unsubscribe"))
    return 0


async def _print(client: Client, options: ConnectionOptions, wanted: Wanted) -> None:
    shown = 0
    out = sys.stdout.buffer
    cleared: set[str] = set()  # by us, and not heard of since: what clears a retained message comes back as a fresh one
    with contextlib.closing(_Flush()):
        async for message in client:
            if wanted.retained_only and not message.retain:
                if message.payload or message.topic not in cleared:
                    return
                cleared.discard(message.topic)
                if not cleared and not client.unread:
                    return
                continue
            if any(topics.matches(each, message.topic) for each in wanted.filter_out):
                continue
            if wanted.remove_retained and message.retain and message.payload:
                cleared.add(message.topic)
                await client.publish_soon(message.topic, b"", 1, retain=True)
            if wanted.no_retained and message.retain:
                continue
            if _passes(wanted.percent):
                _show(out.write, message, options, wanted)
            if not client.unread:
                out.flush()
            shown += 1
            if shown == wanted.count:
                return


class _Flush:
    """Flushes what was printed, also on the way out."""

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.buffer.flush()


def _passes(percent: float) -> bool:
    return percent >= 100 or random.uniform(0, 100) < percent


def _show(write: Any, message: Publish, options: ConnectionOptions, wanted: Wanted) -> None:
    try:
        line = wanted.show(Arrival(message, time.time_ns()))
    except NotJson as e:
        line = b""
        complain(options, str(e))
    write(line + b"\n" if wanted.newline else line)
