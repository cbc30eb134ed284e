"""Mount points: what a listener puts in front of all topics of its clients."""

from fastmq.broker.refusal import Refusal
from fastmq.config import placeholders
from fastmq.config.listener import Listener
from fastmq.packets import Connect
from fastmq.reasons import Reason

TOPIC_MAX_BYTES = 65_535


def mount(listener: Listener, connect: Connect, address: str) -> str:
    """The client's mount point, put in front of its will's topic already.

    Raises Refusal when it lacks what `mount_point` asks for, or its will's topic gets too long.
    """
    values = {
        "clientid": connect.client_id,
        "username": connect.username,
        "peerhost": address or None,
        "listener": listener.title,
    }
    used = {name: value for name, value in values.items() if f"${{{name}}}" in listener.mount_point}
    mount = placeholders.fill(listener.mount_point, values)
    # A value with a slash would be another's mount point or below it, one with a wildcard none at all.
    if mount is None or any(not value or set(value) & set("/+#") for value in used.values()):
        raise Refusal(Reason.NOT_AUTHORIZED, f"it has no {', '.join(used)} that can be in mount_point")
    if (will := connect.will) is not None:
        will.topic = mount + will.topic
        if len(will.topic.encode()) > TOPIC_MAX_BYTES:
            raise Refusal(Reason.TOPIC_NAME_INVALID, "the topic of its will is too long for mount_point")
    return mount
