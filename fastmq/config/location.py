"""Where a broker keeps what must outlive it, and what a node of a cluster is called."""

import contextlib
import os
import re
import secrets
import socket
from pathlib import Path
from typing import Final

from fastmq.config import jetstream
from fastmq.config.cluster import NODE_SUFFIX, problem
from fastmq.config.place import Place
from fastmq.config.schema import Config
from fastmq.errors import StartError

ALONE: Final = Place()


def store_path(config: Config, place: Place = ALONE) -> Path:
    """Where the broker keeps what must outlive it; of several workers, the first has the file of a single one."""
    path = _store_path(config)
    return path.with_name(f"{path.stem}-{place.index}{path.suffix}") if place.index else path


def _store_path(config: Config) -> Path:
    if config.store.path:
        return Path(config.store.path)
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0]) / "fastmq.db"
    if os.geteuid() == 0:
        return Path("/var/lib/fastmq/fastmq.db")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "fastmq" / "fastmq.db"


def nats_folder(config: Config) -> Path:
    """Where the `nats-server` of this node keeps its streams."""
    return Path(config.jetstream.folder) if config.jetstream.folder else store_path(config).with_name("nats")


def check(config: Config) -> None:
    """Looks whether the settings of the cluster go together.

    :raises StartError: they do not.
    """
    wrong = problem(config.cluster)
    if not wrong and config.store.engine == "jetstream":
        wrong = jetstream.problem(config.jetstream, config.cluster)
    if wrong:
        raise StartError(wrong)


def node_name(config: Config, place: Place = ALONE) -> str:
    """What this node of a cluster is called: as the settings say, or as a file by the store does, which is made once.

    :raises StartError: the settings of the cluster are wrong, or the file cannot be made.
    """
    check(config)
    settings = config.cluster
    if not settings.name or settings.node:
        return settings.node
    made = f"{socket.gethostname().partition('.')[0][:40]}-{secrets.token_hex(4)}"
    made = re.sub(r"[^A-Za-z0-9_-]", "-", made)
    if config.store.durability != "none":
        path = store_path(config).with_suffix(NODE_SUFFIX)
    elif place.folder:
        path = Path(place.folder) / "node"
    else:
        return made
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            draft = path.with_name(f"{path.name}.{place.index}.{os.getpid()}")
            draft.write_text(made)
            try:
                os.link(draft, path)  # whole or not at all, by one of the workers
            finally:
                draft.unlink()
        return path.read_text().strip()
    except OSError as error:
        raise StartError(f"{path}: the name of the node cannot be kept: {error.strerror}; see cluster.node") from None
