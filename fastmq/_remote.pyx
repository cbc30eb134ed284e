# cython: language_level=3, boundscheck=False, wraparound=False
"""See _remote.pxd."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastmq._conn cimport Conn, conn_remote, core_wake
from fastmq._branch cimport branches_drop
from fastmq._fabric cimport (
    NEWS_LOST, NEWS_READY, fabric_add, fabric_in, fabric_out, fabric_place, fabric_remove,
)
from fastmq._session cimport Session, session_drop_will, session_end, session_find
from fastmq._items cimport Fabric, ITEM_TOLD, Remote, Told, WORKERS_MAX, item_text


cdef class Remotes:
    """The other workers of the host. One connection goes to each, and one comes from each; see _fabric.pxd.

    An `instance` is a number that no other process of this host has had.
    """

    def __cinit__(self):
        self.core = NULL
        self.on_lost = self.on_ready = self.on_told = None

    def place(
        self, uint32_t index, uint32_t count, int64_t backlog_max=64 << 20, *, bint clustered=False, uint16_t node=0,
        bint even=False
    ) -> None:
        """This is worker `index` of `count`; at `backlog_max` bytes, no more is kept for a worker that is away.

        `clustered`: there may be other nodes; `node` is a number that few have, `even` chooses members of shared
        groups at all nodes alike. Before anything is restored, and once.
        """
        if not 0 <= index < count <= WORKERS_MAX:
            raise ValueError(f"there are 1 to {WORKERS_MAX} workers, numbered from 0")
        if self.core == NULL or self.core.fabric != NULL:
            raise RuntimeError("the hub is closed, or has its place already")
        if count == 1 and not clustered:
            return
        self.core.fabric = <Fabric*> calloc(1, sizeof(Fabric))
        if self.core.fabric == NULL:
            raise MemoryError("no memory for the other workers")
        fabric_place(self.core.fabric, self.core.router, &self.core.groups, &self.core.wire, index, count, backlog_max,
                     clustered)
        self.core.groups.even = even
        self.core.fabric.stamps.node = node
        self.core.protocol.fabric = self.core.fabric

    cdef Remote* _remote(self, uint32_t index) except NULL:
        if self.core == NULL or self.core.fabric == NULL:
            raise RuntimeError("the hub is closed, or the only one")
        if index >= self.core.fabric.top or not self.core.fabric.remotes[index].exists:
            raise ValueError(f"there is no other worker {index}")
        return &self.core.fabric.remotes[index]

    def add(self, uint32_t worker, uint32_t workers) -> int:
        """A worker of another node, which has `workers`, has appeared; returns the index that it has here.

        :raises OverflowError: there are too many.
        """
        cdef Remote* x
        if self.core == NULL or self.core.fabric == NULL or not self.core.fabric.clustered:
            raise RuntimeError("the hub is closed, or there is no cluster")
        if worker >= workers or workers > WORKERS_MAX:
            raise ValueError(f"there is no worker {worker} of {workers}")
        x = fabric_add(self.core.fabric, worker, workers)
        if x == NULL:
            raise OverflowError("there are too many workers in the cluster")
        return x.index

    def remove(self, uint32_t index) -> None:
        """A worker of another node is given up: nothing is kept for it any more, and nobody waits for it."""
        cdef Remote* x = self._remote(index)
        if x.workers == 0:
            raise ValueError(f"worker {index} is not of another node")
        fabric_remove(x)
        core_wake(self.core)

    def settled(self) -> None:
        """All nodes are here that are to be expected: shared groups of the store that none has named are no more."""
        if self.core != NULL and self.core.fabric != NULL:
            branches_drop(self.core.fabric)
            core_wake(self.core)

    def end(self, bytes client_id not None) -> bool:
        """Ends a session without connection and without its will: it goes on at another node. False: there is none."""
        cdef Session* s
        if self.core == NULL:
            return False
        s = session_find(&self.core.sessions, <const uint8_t*> <char*> client_id, <uint32_t> len(client_id))
        if s == NULL or s.link != NULL:
            return False
        session_drop_will(s)
        session_end(s)
        core_wake(self.core)
        return True

    def clock(self, int64_t wall_ms, int64_t base_ms=-1) -> None:
        """It is so late, in milliseconds since 1970; what the store brought back was retained until `base_ms`."""
        if self.core != NULL and self.core.fabric != NULL:
            self.core.fabric.stamps.wall_ms = wall_ms - self.core.router.now_ms
            if base_ms >= 0:
                self.core.fabric.stamps.base = <uint64_t> base_ms << 16 | self.core.fabric.stamps.node

    cdef Conn* _conn(self, Remote* x, int fd) except NULL:
        cdef Conn* c = conn_remote(self.core, fd, x)
        if c == NULL:
            raise MemoryError("no memory for a connection")
        core_wake(self.core)
        return c

    def speak(self, uint32_t index, int fd, uint64_t instance) -> None:
        """A connected, non-blocking socket to a worker, the engine's from now on: it hears what we want."""
        cdef Remote* x = self._remote(index)
        cdef Conn* c
        if x.out != NULL:
            raise RuntimeError(f"there is a connection to worker {index} already")
        c = self._conn(x, fd)
        fabric_out(self.core.fabric, index, &c.peer.link, instance)

    def hear(self, uint32_t index, int fd, uint64_t instance) -> None:
        """A connected, non-blocking socket from a worker, the engine's from now on."""
        cdef Conn* c = self._conn(self._remote(index), fd)
        fabric_in(self.core.fabric, index, &c.peer.link, instance)

    def tell(self, uint32_t index, bytes told not None) -> bool:
        """Says something to a worker's program; False: it is not connected, or memory is out, and does not hear it."""
        cdef Remote* x = self._remote(index)
        core_wake(self.core)
        return item_text(x, ITEM_TOLD, <const uint8_t*> <char*> told, <uint32_t> len(told))

    def serve(self) -> None:
        """Clients come from now on: a worker that starts later is told what is retained."""
        if self.core != NULL and self.core.fabric != NULL:
            self.core.fabric.serving = 1

    cdef uint32_t subscriptions(self):
        """How many subscriptions are those of other workers."""
        cdef uint32_t i, n = 0
        if self.core.fabric != NULL:
            for i in range(self.core.fabric.top):
                n += self.core.fabric.remotes[i].base.owner.n
        return n

    def state(self) -> list:
        """Of every other worker: its number, connected, ready, items and bytes that wait for its acknowledgement."""
        cdef Remote* x
        cdef uint32_t i
        cdef list out = []
        if self.core == NULL or self.core.fabric == NULL:
            return out
        for i in range(self.core.fabric.top):
            x = &self.core.fabric.remotes[i]
            if x.exists:
                out.append((i, x.out != NULL, x.ready != 0, x.n, x.bytes))
        return out

    cdef int notify(self) except -1:
        """Calls back with what happened."""
        cdef Fabric* f = self.core.fabric
        cdef Told* told
        cdef uint32_t i
        cdef uint8_t news
        f.news = 0
        for i in range(f.top):
            news = f.remotes[i].news
            f.remotes[i].news = 0
            if news & NEWS_READY and self.on_ready is not None:
                self.on_ready(i)
            if news & NEWS_LOST and self.on_lost is not None:
                self.on_lost(i)
        while f.told != NULL:
            told = f.told
            f.told = told.next
            if f.told == NULL:
                f.last_told = NULL
            body = (<char*> told + sizeof(Told))[:told.len]
            i = told.index
            free(told)
            if self.on_told is not None:
                self.on_told(i, body)
        return 0
