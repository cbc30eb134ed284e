"""Whole copies of a worker's store in an object store of NATS JetStream, which several servers have."""

import contextlib
from pathlib import Path
from typing import Any, Final

from fastmq.config.jetstream import JetStreamSettings
from fastmq.store.nats_client import Connection

CHUNK_BYTES: Final = 256 * 1024
SNAPSHOT_S: Final = 600.0


class Snapshots:
    """Those of one worker of one node, each by the number of the newest batch that it has."""

    def __init__(
        self, connection: Connection, settings: JetStreamSettings, cluster: str, node: str, worker: int
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._bucket = f"fastmq-{cluster}".replace(".", "=").replace("=", "_")
        self._object = f"{node}/{worker}"

    def put(self, path: Path, number: int) -> None:
        """Takes a file that has all batches up to this number. May be called from several threads."""
        self._connection.call(self._put(path, number), SNAPSHOT_S)

    async def _put(self, path: Path, number: int) -> None:
        from nats.js.api import ObjectMeta, ObjectMetaOptions

        bucket = await self._open()
        meta = ObjectMeta(options=ObjectMetaOptions(max_chunk_size=CHUNK_BYTES))
        with path.open("rb") as file:
            await bucket.put(f"{self._object}/{number:020}", file, meta)
        for older in (await self._numbers(bucket))[:-1]:
            # Only older ones: were this process fenced by now, its snapshot would be one of these to the owner.
            if older < number:
                await bucket.delete(f"{self._object}/{older:020}")

    def newest(self) -> int:
        """The number up to which the newest one has the batches; 0: there is none."""
        return self._connection.patient(self._newest)

    async def _newest(self) -> int:
        numbers = await self._numbers(await self._open())
        return numbers[-1] if numbers else 0

    def get(self, number: int, path: Path) -> None:
        """Writes that one to a file."""
        self._connection.patient(lambda: self._get(number, path), timeout_s=SNAPSHOT_S)

    async def _get(self, number: int, path: Path) -> None:
        bucket = await self._open()
        with path.open("wb") as file:
            await bucket.get(f"{self._object}/{number:020}", writeinto=file)

    async def _numbers(self, bucket: Any) -> list[int]:
        from nats.js.errors import NotFoundError

        try:
            found = await bucket.list()
        except NotFoundError:  # it has none
            return []
        begin = f"{self._object}/"
        return sorted(
            int(each.name.removeprefix(begin)) for each in found if each.name.startswith(begin) and not each.deleted
        )

    async def _open(self) -> Any:
        from nats.js.api import ObjectStoreConfig, StorageType
        from nats.js.errors import BadRequestError, NotFoundError

        js = self._connection.js
        try:
            return await js.object_store(self._bucket)
        except NotFoundError:
            config = ObjectStoreConfig(bucket=self._bucket, storage=StorageType.FILE, replicas=self._settings.replicas)
            with contextlib.suppress(BadRequestError):  # another node was quicker
                return await js.create_object_store(self._bucket, config=config)
            return await js.object_store(self._bucket)
