"""A small MQTT client on the broker's own codec: for `fastmq pub`, `fastmq sub`, bridges, benches and your programs.

    async with Client("localhost", client_id="kitchen") as client:
        await client.subscribe("sensors/#", qos=1)
        async for message in client:
            print(message.topic, message.payload)

Speaks MQTT 3.1, 3.1.1 and 5.0, on asyncio or uvloop alike. One client belongs to one event loop.
"""

from fastmq.client.client import Client
from fastmq.client.errors import ClientError, ConnectionLost, ConnectRefused, Refused
from fastmq.client.reconnect import Reconnect
from fastmq.packets import Properties, Publish, SubscriptionRequest, Will

__all__ = [
    "Client",
    "ClientError",
    "ConnectRefused",
    "ConnectionLost",
    "Properties",
    "Publish",
    "Reconnect",
    "Refused",
    "SubscriptionRequest",
    "Will",
]
