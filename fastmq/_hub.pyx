# cython: language_level=3, boundscheck=False, wraparound=False
"""The engine's face to Python: one Hub per worker. See _conn.pxd for what happens below it.

All methods belong to one thread: the one whose event loop watches `fileno()`. Times are milliseconds of engine time.
"""
from libc.errno cimport ENOSPC
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastmq._access cimport Access, Denied, guard_set
from fastmq._conn cimport (
    Conn, Core, Gone, LISTENERS_MAX, conn_close, conn_consume, conn_detach, conn_go_on_soon, conn_id,
    conn_open, conn_park, conn_take_packet, core_find, core_wake, unlist,
)
from fastmq._journal cimport (
    Journal, KEPT_NOT, Stored, journal_ask, journal_full, journal_gate, journal_rule, journal_settled, journal_take,
    stored_ref, stored_unref,
)
from fastmq._link cimport link_open_gates, link_promise, link_set_aliases
from fastmq._linux cimport peer_text, write
from fastmq._meter cimport Meter, Rates, meter_ref, meter_unref
from fastmq._message cimport Message, message_new, message_unref
from fastmq._moving cimport Moving
from fastmq._protocol cimport AUTHENTICATING, CONNECTING, OPEN, TOPIC_MAX, peer_session
from fastmq._remote cimport Remotes
from fastmq._restore cimport Restoration, restoration_end, restoration_init, restore_batch, restore_message
from fastmq._router cimport router_bytes, router_full, router_publish
from fastmq._session cimport (
    Session, session_attach, session_due, session_end, session_find, session_id, session_new, session_opened,
    session_pump, session_resume, sessions_go_on,
)
from fastmq._share cimport Strategy, groups_take_bodies
from fastmq._sink cimport Sinks
from fastmq._subscribe cimport session_bar
from fastmq._table cimport table_at, table_size
from fastmq._tap cimport Tap, tap_make, taps_notify
from fastmq._terms cimport RATES_MAX, terms_mount, terms_rates
from fastmq._turn cimport (
    core_advance, core_clock, core_close, core_finish, core_go_on, core_listen, core_open, core_read,
    core_set_clock, core_unlisten,
)
from fastmq._user cimport User, user_find, user_name, user_set
from fastmq._wire cimport AUTH, Publish, SESSION_TAKEN_OVER, hash_bytes, split_publish

from fastmq._codec import decode
from fastmq.errors import ProtocolError

cdef enum:
    BATCH_FULL = 65536           # bytes of records at which a batch leaves although nobody waits for it

STRATEGIES = ("round_robin", "random", "sticky", "hash_clientid", "hash_topic", "least_inflight")


cdef class Hub:
    """The connections, sessions and routes of one worker."""

    cdef Core _core
    cdef Restoration _restoration
    cdef bint _open
    cdef bint _restoring
    cdef bint _in_turn
    #: Callable[[int, bytes], None], gets the body of CONNECT; answers, now or later, with start or reject
    cdef public object on_connect
    cdef public object on_auth     #: Callable[[int, Auth], None] | None
    cdef public object on_tick     #: Callable[[], None] | None: four times a second; spares the loop a timer of its own
    cdef public object on_gone     #: Callable[[bytes, int], None] | None: a client's connection ended, with our reason

    #: Callable[[bytes, bool], None] | None: a batch of the journal, and whether it must reach the medium; answered,
    #: from any thread, with committed() or failed()
    cdef public object on_batch
    cdef public object on_want     #: Callable[[list[int]], None] | None: messages of the store; answered with bodies()
    #: Callable[[bytes, int, bytes, int, int], None] | None: a client was denied something: its id, 1 to publish or 2 to
    #: subscribe, the topic (its first 128 bytes), the serial of its list, the place of the rule or -1
    cdef public object on_denied
    cdef public object on_broken   #: Callable[[], None] | None: the journal has a gap for want of memory
    cdef bint _has_committed       # set by other threads, taken by the next turn; so are the next two
    cdef bint _has_news            # of _trouble
    cdef uint8_t _trouble
    cdef object _bodies            #: list[bytes | None] | None
    cdef readonly Sinks sinks      #: connections whose bytes do not go through a socket of ours
    cdef readonly Remotes remotes  #: the other workers of the host
    cdef readonly Moving moving    #: sessions that go to other engines, and come from there

    def __cinit__(self) -> None:
        memset(&self._core, 0, sizeof(Core))
        self._core.epfd = self._core.wake_fd = self._core.timer_fd = -1
        self.sinks = Sinks()
        self.remotes = Remotes()
        self.moving = Moving()

    def __init__(
        self, *, uint32_t packet_max, uint32_t output_max, uint16_t receive_max=1024, uint16_t alias_max=64,
        uint32_t levels_max=128, uint8_t qos_max=2, bint retain_available=True, bint wildcard_available=True,
        bint shared_available=True, bint ids_available=True, bint check_payload=False, uint32_t queue_max=1000,
        int64_t queue_bytes_max=1 << 20, bint qos0_offline=False, bint drop_oldest=False,
        uint32_t expiry_max_s=604800, uint32_t subscriptions_max=0, uint32_t connections_max=0,
        int64_t memory_max=0, uint32_t slow_after_ms=1000, uint32_t connect_timeout_ms=15000,
        str strategy="round_robin", uint32_t group_queue_max=10000, int64_t group_queue_bytes_max=1 << 24,
        uint32_t retained_max=0, int64_t retained_bytes_max=0, uint32_t retained_payload_max=0,
        bint deny_closes=False, uint32_t pause_max_ms=10000, uint32_t connect_max=262144,
    ) -> None:
        cdef Core* core = &self._core
        self.on_connect = self.on_auth = self.on_tick = self.on_gone = None
        self.on_batch = self.on_want = self.on_broken = self.on_denied = self._bodies = None
        self._has_committed = self._has_news = self._restoring = False
        self._trouble = 0
        core.slow_after_ms = slow_after_ms
        core.connect_timeout_ms = connect_timeout_ms
        core.connections_max = connections_max
        core.pause_max_ms = pause_max_ms
        core.connect_max = min(connect_max, packet_max)
        if not core_open(core, packet_max, output_max):
            raise OSError("the engine could not get its epoll set, timer or memory")
        self._open = True
        self.sinks.core = self.remotes.core = self.moving.core = core
        core.router.memory_max = memory_max
        core.router.retained_max = retained_max
        core.router.retained_bytes_max = retained_bytes_max
        core.router.retained_payload_max = retained_payload_max
        core.protocol.levels_max = levels_max
        core.protocol.receive_max = receive_max
        core.protocol.alias_max = alias_max
        core.protocol.qos_max = qos_max
        core.protocol.retain_available = retain_available
        core.protocol.wildcard_available = wildcard_available
        core.protocol.shared_available = shared_available
        core.protocol.ids_available = ids_available
        core.protocol.check_payload = check_payload
        core.protocol.deny_closes = deny_closes
        core.sessions.queue_max = queue_max
        core.sessions.queue_bytes_max = queue_bytes_max
        # A limit may be large for the sake of clients that are away; one that is here needs no such backlog.
        core.sessions.queue_soft = min(queue_max // 2, 4096)
        core.sessions.queue_bytes_soft = min(queue_bytes_max // 2, 4 << 20)
        core.sessions.qos0_offline = qos0_offline
        core.sessions.drop_oldest = drop_oldest
        core.sessions.expiry_max_s = expiry_max_s
        core.sessions.subscriptions_max = subscriptions_max
        core.groups.queue_max = group_queue_max
        core.groups.queue_bytes_max = group_queue_bytes_max
        core.groups.qos0_offline = qos0_offline
        core.groups.strategy = <Strategy> <int> STRATEGIES.index(strategy)

    def __dealloc__(self) -> None:
        self._free()

    cdef void _free(self) noexcept:
        if self._restoring:
            self._restoring = False
            restoration_end(&self._restoration, False)
        self.sinks.core = self.remotes.core = self.moving.core = NULL
        core_close(&self._core)

    def close(self) -> None:
        """Frees everything; connections that are left are cut. Only `close` may be called after it."""
        if self._open:
            self._open = False
            self.sinks.close()
            self._free()
            memset(&self._core, 0, sizeof(Core))
            self._core.epfd = self._core.wake_fd = self._core.timer_fd = -1

    cdef int _check(self) except -1:
        if not self._open:
            raise RuntimeError("the hub is closed")
        return 0

    def fileno(self) -> int:
        """What the event loop watches for reading."""
        return self._core.epfd

    # -- turns ---------------------------------------------------------------------------------------------------------

    def on_ready(self) -> None:
        """One turn. The event loop calls it when `fileno()` is readable."""
        cdef Core* core = &self._core
        cdef bint finished, ticked
        if not self._open or self._in_turn:
            return
        self._in_turn = True
        self.sinks.turn_comes = False
        try:
            core.wants_gone = self.on_gone is not None
            self._hear_store()
            with nogil:
                core.router.now_ms = core_clock(core)
                core_read(core)
                finished = core.escalated.head == NULL
                if finished:
                    core_finish(core)
            while core.escalated.head != NULL:
                while core.escalated.head != NULL:
                    self._escalated(core.escalated.head)
                with nogil:
                    core_go_on(core)
            if not finished:
                with nogil:
                    core_finish(core)
            if core.sinks != NULL or core.ended != NULL:
                self.sinks.serve()
            while core.gone != NULL:
                self._gone()
            if core.protocol.denials.n:
                self._denied()
            if core.fabric != NULL and core.fabric.news:
                self.remotes.notify()
            if core.taps.ready != NULL:
                taps_notify(&core.taps)
            ticked = core.ticked != 0
            if ticked:
                core.ticked = 0
                if self.on_tick is not None:
                    self.on_tick()
            if core.router.journal.on:
                self._tell_store(ticked)
        finally:
            self._in_turn = False

    # -- the store -----------------------------------------------------------------------------------------------------

    def keep(self, uint8_t level, rules: list[tuple[bytes, int]], size_t backlog_max=16 << 20) -> None:
        """What is to be durable: 0 nothing, 1 what survives the process, 2 what survives a power cut.

        `rules` give other levels to the topics that their filters match, the first match counts. At `backlog_max` bytes
        of records that wait for the store, publishers wait too. The journal begins with `restored`.
        """
        self._check()
        cdef Journal* j = &self._core.router.journal
        j.level = j.state_level = level
        j.max = backlog_max
        for topic_filter, each in rules:
            if not journal_rule(j, <uint8_t*> <char*> (<bytes> topic_filter), <uint32_t> len(topic_filter), each):
                raise MemoryError("no memory for a rule of durability")

    def restore(self, bytes batch not None) -> None:
        """Takes a batch of what the store loads, in its order, before anything else happens.

        :raises ValueError: a record is malformed.
        """
        self._check()
        if not self._restoring:
            restoration_init(&self._restoration, &self._core.sessions)
            self._restoring = True
        cdef const uint8_t* data = <uint8_t*> <char*> batch
        cdef size_t n = len(batch)
        cdef int failed
        with nogil:
            failed = restore_batch(&self._restoration, data, n)
        if failed == -2:
            raise MemoryError("no memory for what the store holds")
        if failed:
            raise ValueError("a record of the store is malformed")

    def restored(self) -> dict:
        """All is loaded: engine time goes on, sessions' clocks run, and the journal begins. Returns what there was."""
        self._check()
        cdef Core* core = &self._core
        cdef Journal* j = &core.router.journal
        cdef Restoration* x = &self._restoration
        if not self._restoring:
            restoration_init(x, &core.sessions)
        if x.clock_ms >= 0:
            core_set_clock(core, x.clock_ms)
        found = {"records": x.records, "skipped": x.skipped, "sessions": core.router.stats.sessions}
        j.on = j.state_level != KEPT_NOT
        restoration_end(x, True)
        self._restoring = False
        core_wake(core)
        return found

    def committed(self, uint8_t reason=0) -> None:
        """The batch is committed; with a reason, no more messages can be kept, and clients hear it. From any thread."""
        self._trouble = reason
        self._has_news = self._has_committed = True
        self._poke()

    def works(self) -> None:
        """There is room for messages again. From any thread."""
        self._trouble = 0
        self._has_news = True
        self._poke()

    def failed(self, uint8_t reason) -> None:
        """The batch cannot be committed now, and will be tried again; clients hear `reason`. From any thread."""
        self._trouble = reason
        self._has_news = True
        self._poke()

    def broke(self) -> None:
        """The batch can never be committed: nothing is promised any more, see on_broken. From any thread."""
        self._core.router.journal.broken = 1
        self._poke()

    def bodies(self, list found not None) -> None:
        """The MESSAGE records that were wanted, in the same order, None for what is lost. From any thread."""
        self._bodies = found
        self._poke()

    cdef void _poke(self) noexcept:
        cdef uint64_t one = 1
        if self._core.wake_fd >= 0:
            write(self._core.wake_fd, &one, 8)

    cdef int _hear_store(self) except -1:
        """What other threads have left for this turn."""
        cdef Core* core = &self._core
        cdef Journal* j = &core.router.journal
        if self._has_news:
            self._has_news = False
            j.trouble = self._trouble
        if self._has_committed:
            self._has_committed = False
            if j.busy:
                j.busy = 0
                j.committed = j.seq - 1
                link_open_gates(&core.wire)
        if self._bodies is not None:
            found, self._bodies = self._bodies, None
            self._take_bodies(found)
        return 0

    cdef int _take_bodies(self, list found) except -1:
        cdef Core* core = &self._core
        cdef Journal* j = &core.router.journal
        cdef uint32_t i, n = j.n_asked
        cdef Message** made = <Message**> calloc(n + 1, sizeof(void*))
        cdef Stored* st
        if made == NULL:
            raise MemoryError("no memory for what the store brought back")
        for i in range(n):
            st = j.asked[i]
            st.wanted = 0
            record = found[i] if i < <uint32_t> len(found) else None
            if st.message != NULL:
                continue         # it has come by another way
            if record is not None:
                made[i] = restore_message(core.router, <uint8_t*> <char*> (<bytes> record), len(<bytes> record))
            if made[i] == NULL:
                st.lost = 1
                continue
            made[i].stored = stored_ref(st)
            st.message = made[i]
        groups_take_bodies(&core.groups)
        self.moving.take_bodies()
        sessions_go_on(&core.sessions)
        for i in range(n):
            if made[i] != NULL:
                message_unref(made[i])
            stored_unref(j.asked[i])
        j.n_asked = 0
        free(made)
        return 0

    cdef int _tell_store(self, bint ticked) except -1:
        """Hands over the batch, unless one is on its way, and asks for messages.

        A batch that nobody waits for, of what clients have acknowledged most of all, goes with the next one that is
        urgent, or with the tick.
        """
        cdef Core* core = &self._core
        cdef Journal* j = &core.router.journal
        if j.broken:
            if self.on_broken is not None:
                broken, self.on_broken = self.on_broken, None
                broken()
            return 0
        if j.len and not j.busy and self.on_batch is not None and (j.urgent or j.len >= BATCH_FULL or ticked):
            batch = (<char*> j.data)[:j.len]
            sync = j.sync != 0
            journal_take(j)
            if core.waiting.head != NULL:
                core_wake(core)  # there is room again for those who wait for it
            self.on_batch(batch, sync)
        if j.n_wanted and self.on_want is not None:
            wanted = self.wanted()
            if wanted:
                self.on_want(wanted)
        return 0

    def wanted(self) -> list[int]:
        """The messages that are asked back from the store from now on, to be answered with `bodies`."""
        cdef Journal* j = &self._core.router.journal
        cdef uint32_t i
        return [j.asked[i].id for i in range(journal_ask(j))]

    def hurry(self) -> None:
        """Hands over what is recorded with the next turn, whoever waits for it."""
        self._core.router.journal.urgent = 1
        core_wake(&self._core)

    @property
    def is_settled(self) -> bool:
        """Whether everything that was recorded is committed, or never will be."""
        return journal_settled(&self._core.router.journal)

    @property
    def trouble(self) -> int:
        """The reason code for what the store cannot keep now; 0: all is well."""
        if self._core.router.journal.on and journal_full(&self._core.router.journal):
            return self._core.router.journal.trouble or 0x97
        return self._core.router.journal.trouble

    cdef int _denied(self) except -1:
        cdef Denied* d
        cdef uint32_t i, n = self._core.protocol.denials.n
        self._core.protocol.denials.n = 0
        if self.on_denied is None:
            return 0
        for i in range(n):
            d = &self._core.protocol.denials.at[i]
            self.on_denied(
                (<char*> d.client_id)[:d.id_len], d.action, (<char*> d.topic)[:d.topic_len], d.serial, <int> d.rule - 1
            )
        return 0

    cdef int _gone(self) except -1:
        cdef Gone* gone = self._core.gone
        cdef bytes client_id = (<char*> gone + sizeof(Gone))[:gone.id_len]
        cdef uint8_t reason = gone.reason
        self._core.gone = gone.next
        free(gone)
        if self.on_gone is not None:
            self.on_gone(client_id, reason)
        return 0

    cdef int _escalated(self, Conn* c) except -1:
        """Hands the packet at the head of the connection's input to Python."""
        cdef Core* core = &self._core
        cdef uint8_t first = 0
        cdef uint32_t at = 0, n = 0
        cdef uint64_t id = conn_id(c)
        unlist(c)
        if c.closing or not conn_take_packet(c, &first, &at, &n):
            return 0
        body = (<char*> c.rest)[at:at + n]
        conn_consume(c, at + n)
        try:
            if first >> 4 == AUTH:
                if self.on_auth is None:
                    raise ProtocolError("AUTH without an authentication method")
                self.on_auth(id, decode(first, body, 5))
            else:
                c.peer.phase = CONNECTING
                self.on_connect(id, body)
        except ProtocolError as error:
            self._refused(id, error)
        except BaseException:
            self.close_connection(id, 0x80)
            raise
        c = core_find(core, id)
        if c == NULL or c.closing:
            return 0
        if c.peer.phase == CONNECTING:
            conn_park(c)
        else:
            conn_go_on_soon(c)
        return 0

    cdef int _refused(self, uint64_t id, object error) except -1:
        cdef Conn* c = core_find(&self._core, id)
        if c == NULL:
            return 0
        if c.peer.phase == OPEN:
            conn_close(c, <uint8_t> int(error.reason), True)
        else:
            conn_close(c, 0, False)
        return 0

    # -- connections ---------------------------------------------------------------------------------------------------

    def allow_connections(self, uint16_t listener, uint32_t most) -> None:
        """How many connections of a listener there may be at a time; 0: no limit."""
        if listener >= LISTENERS_MAX:
            raise ValueError(f"there are at most {LISTENERS_MAX} listeners")
        self._core.most[listener] = most

    def tune(
        self, *, uint32_t connections_max, uint32_t subscriptions_max, uint32_t user_subscriptions_max,
        uint32_t user_retained_max, uint32_t slow_after_ms, uint32_t pause_max_ms,
        uint32_t connect_timeout_ms, uint32_t connect_max,
    ) -> None:
        """Other limits from now on; what exceeds them already stays."""
        cdef Core* core = &self._core
        core.connections_max, core.slow_after_ms, core.pause_max_ms = connections_max, slow_after_ms, pause_max_ms
        core.connect_timeout_ms, core.connect_max = connect_timeout_ms, min(connect_max, core.packet_max)
        core.sessions.subscriptions_max = subscriptions_max
        core.sessions.users.subscriptions_max = user_subscriptions_max
        core.sessions.users.retained_max = user_retained_max

    def listen(self, int fd, uint16_t listener) -> None:
        """Accepts from a listening, non-blocking socket; the caller keeps and closes it. OSError: epoll refuses it."""
        self._check()
        cdef int error = core_listen(&self._core, fd, listener) if listener < LISTENERS_MAX else ENOSPC
        if error:
            raise OSError(error, "epoll refuses the listening socket")

    def unlisten(self, int fd) -> None:
        """Accepts from this socket no more."""
        core_unlisten(&self._core, fd)

    def peer(self, uint64_t id) -> str:
        """'address:port' of a connection, '' when it is gone."""
        cdef Conn* c = core_find(&self._core, id)
        cdef char text[80]
        if c == NULL:
            return ""
        if c.ended != NULL:
            return self.sinks.peer(id)
        peer_text(c.fd, text, sizeof(text))
        return (<bytes> text).decode()

    def listener(self, uint64_t id) -> int:
        """The number of the listener that a connection came through; 0 when it is gone."""
        cdef Conn* c = core_find(&self._core, id)
        return c.listener if c != NULL else 0

    def is_open(self, uint64_t id) -> bool:
        """Whether this connection still is."""
        return core_find(&self._core, id) != NULL

    def has_session(self, bytes client_id not None) -> bool:
        """Whether a session exists under this client id."""
        return session_find(&self._core.sessions, <uint8_t*> <char*> client_id, <uint32_t> len(client_id)) != NULL

    def sessions_of(self, bytes username not None) -> int:
        """How many sessions are this user's, as far as is known: after a restart, those that have been opened again."""
        cdef User* u = user_find(&self._core.sessions.users, <uint8_t*> <char*> username, <uint32_t> len(username))
        return u.sessions if u != NULL else 0

    def open(
        self, uint64_t id, bytes client_id not None, *, bint clean_start, uint8_t version, uint32_t expiry_s,
        uint16_t send_max, uint32_t packet_max=0, uint16_t alias_max=0, bytes will=None, uint32_t will_delay_s=0,
        bint is_bridge=False, bytes username=None,
    ) -> bool | None:
        """Gives the connection its session: takes over from another connection, resumes or starts afresh.

        Returns Session Present, or None when the connection is gone. `will` is an encoded MQTT 5 PUBLISH. A bridge
        hears nothing of its own, and gets the retain flag as it was published. The caller sends CONNACK
        with `start` next. MemoryError: there is no room for the session.
        """
        self._check()
        cdef Core* core = &self._core
        cdef Conn* c = core_find(core, id)
        cdef Session* s
        cdef Conn* old
        cdef Publish p
        cdef uint8_t* name = <uint8_t*> <char*> client_id
        cdef uint32_t n = <uint32_t> len(client_id)
        cdef Journal* j = &core.router.journal
        cdef uint64_t records = j.records
        if c == NULL or c.closing:
            return None
        if will is not None:
            split_publish(will, &p)
        s = session_find(&core.sessions, name, n)
        if s != NULL and s.link != NULL:
            old = <Conn*> s.link
            conn_close(old, SESSION_TAKEN_OVER, True)  # [MQTT-3.1.4-3]
            conn_detach(old)
            s = session_find(&core.sessions, name, n)
        if s != NULL and s.link == NULL:
            s = session_due(s, core.router.now_ms)
        if s != NULL and clean_start:
            session_end(s)  # [MQTT-3.1.2-4]
            s = NULL
        present = s != NULL
        if s == NULL:
            s = session_new(&core.sessions, name, n)
            if s == NULL:
                raise MemoryError("no memory for a session")
        c.peer.link.version = version
        c.peer.link.packet_max = packet_max
        c.peer.is_bridge = is_bridge
        session_attach(s, &c.peer.link)
        user_set(&core.sessions.users, &s.user, <uint8_t*> <char*> username if username is not None else NULL,
                 <uint16_t> len(username) if username is not None else 0, s.base.owner.n + s.n_memberships)
        s.expiry_s = expiry_s if expiry_s < core.sessions.expiry_max_s else core.sessions.expiry_max_s
        s.send_max = send_max
        if alias_max and not link_set_aliases(&c.peer.link, alias_max):
            alias_max = 0
        if will is not None:
            s.will_has_expiry = p.has_expiry
            s.will_expiry_s = p.expiry_s
            s.will_delay_s = will_delay_s
            p.has_expiry = 0
            s.will = message_new(&core.router.ledger, &p, hash_bytes(p.topic, p.topic_len), s.base.serial, 0)
            if s.will == NULL:
                raise MemoryError("no memory for a will")
        session_opened(s)
        if j.trouble:            # it may be long: who finds an old session as it was may come and drain its queue
            c.promises = j.records != records and not present
        else:                    # that there is no session must stay true: it may have ended on another connection
            c.promises = j.records != records or (not present and j.ended > j.committed)
        core.router.stats.connects += 1
        return present

    def start(self, uint64_t id, bytes connack not None, uint32_t keepalive_ms=0) -> None:
        """Sends CONNACK, then what the session has waiting, and lets the client's packets in.

        keepalive_ms is the grace after which a silent client is cut, 0 = never.
        """
        cdef Conn* c = core_find(&self._core, id)
        if c == NULL or c.closing:
            return
        self._write(c, connack, journal_gate(&self._core.router.journal) if c.promises else 0)
        conn_open(c, keepalive_ms)
        session_bar(peer_session(&c.peer))
        session_resume(peer_session(&c.peer))
        core_wake(&self._core)

    def reject(self, uint64_t id, bytes packet not None) -> None:
        """Sends a last packet (a CONNACK with an error) and closes."""
        cdef Conn* c = core_find(&self._core, id)
        if c == NULL or c.closing:
            return
        self._write(c, packet)
        conn_close(c, 0x80, False)
        core_wake(&self._core)

    def allow(self, uint64_t id, Access access) -> bool:
        """Holds a connection to an access control list from now on; None: to none. False: the connection is gone."""
        cdef Conn* c = core_find(&self._core, id)
        if c == NULL or c.closing:
            return False
        guard_set(&c.peer.link.guard, access._list if access is not None else NULL)
        if c.peer.phase == OPEN:
            session_bar(peer_session(&c.peer))
            session_pump(peer_session(&c.peer))
            core_wake(&self._core)
        return True

    def limit(self, uint64_t id, list rates not None, list out_rates=None) -> bool:
        """Holds what a connection sends, and what it is sent, to at most 3 `Rates` each. False: it is gone."""
        cdef Conn* c = core_find(&self._core, id)
        cdef Meter* meters[RATES_MAX]
        cdef uint32_t i, n = <uint32_t> len(out_rates) if out_rates is not None else 0
        if len(rates) > RATES_MAX or n > RATES_MAX:
            raise ValueError(f"at most {RATES_MAX} rates hold for a connection")
        if c == NULL or c.closing:
            return False
        for i in range(n):
            meters[i] = (<Rates?> out_rates[i])._meter
        if not terms_rates(&c.peer.link.terms, meters, n):
            raise MemoryError("no memory for a connection's rates")
        for i in range(RATES_MAX):
            if c.meters[i] != NULL:
                meter_unref(c.meters[i])
            c.meters[i] = meter_ref((<Rates?> rates[i])._meter) if i < <uint32_t> len(rates) else NULL
        return True

    def mount(self, uint64_t id, bytes mount not None) -> bool:
        """Puts this in front of all topics that a client names, before its session is opened. False: it is gone."""
        cdef Conn* c = core_find(&self._core, id)
        if c == NULL or c.closing:
            return False
        if self._core.protocol.room == NULL:
            self._core.protocol.room = <uint8_t*> malloc(TOPIC_MAX)
        if self._core.protocol.room == NULL or not terms_mount(
            &c.peer.link.terms, <uint8_t*> <char*> mount, <uint16_t> len(mount)
        ):
            raise MemoryError("no memory for a mount point")
        return True

    def send(self, uint64_t id, bytes packet not None) -> bool:
        """Sends an encoded packet as it is; False when the connection is gone.

        Before `start` it can only be an AUTH: the client's answer is awaited from then on.
        """
        cdef Conn* c = core_find(&self._core, id)
        if c == NULL or c.closing:
            return False
        self._write(c, packet)
        if c.peer.phase == CONNECTING:
            c.peer.phase = AUTHENTICATING
            conn_go_on_soon(c)
        core_wake(&self._core)
        return True

    cdef int _write(self, Conn* c, bytes packet, uint64_t gate=0) except -1:
        if not packet:           # a chunk without bytes would never leave
            raise ValueError("not an encoded packet: it is empty")
        cdef uint8_t* out = link_promise(&c.peer.link, <uint32_t> len(packet), gate)
        if out != NULL:
            memcpy(out, <char*> packet, len(packet))
            self._core.router.stats.packets_sent += 1
        return 0

    def close_connection(self, uint64_t id, uint8_t reason=0, bint with_will=True) -> bool:
        """Ends a connection, with DISCONNECT and this reason if not 0; False when it is gone already."""
        cdef Conn* c = core_find(&self._core, id)
        if c == NULL or c.closing:
            return False
        conn_close(c, reason, with_will)
        core_wake(&self._core)
        return True

    def disconnect(self, bytes client_id not None, uint8_t reason=0x98) -> bool:
        """Ends a client's connection (its session stays as it asked for); False when it is not connected."""
        self._check()
        cdef Session* s = session_find(&self._core.sessions, <uint8_t*> <char*> client_id, <uint32_t> len(client_id))
        if s == NULL or s.link == NULL:
            return False
        return self.close_connection(conn_id(<Conn*> s.link), reason)

    def close_all(self, uint8_t reason) -> int:
        """Ends all connections without publishing wills: the server goes, not the clients. Returns how many."""
        cdef uint32_t i
        cdef int n = 0
        for i in range(self._core.conns_cap):
            if self._core.conns[i] != NULL and not self._core.conns[i].closing and (
                self._core.conns[i].peer.remote == NULL
            ):
                conn_close(self._core.conns[i], reason, False)
                n += 1
        core_wake(&self._core)
        return n

    # -- messages ------------------------------------------------------------------------------------------------------

    def publish(self, bytes packet not None) -> int:
        """Routes an encoded MQTT 5 PUBLISH as the broker's own; returns how many subscribers matched."""
        self._check()
        cdef Publish p
        cdef bytes own = bytes(bytearray(packet))  # parsing may move properties about
        split_publish(own, &p)
        n = router_publish(self._core.router, &p, 0, NULL)
        self._core.router.congested = NULL
        core_wake(&self._core)
        return n

    def tap(self, uint32_t messages_max=10000, int64_t bytes_max=1 << 24) -> Tap:
        """A subscriber inside the program, with a bounded queue of its own."""
        self._check()
        return tap_make(self, &self._core.taps, messages_max, bytes_max)

    # -- what is going on ----------------------------------------------------------------------------------------------

    def stats(self) -> dict:
        """All counters by name, and the sizes of what is kept."""
        self._check()
        cdef Core* core = &self._core
        counters = <dict> core.router.stats
        counters["subscriptions"] = core.router.trie.subscriptions - self.remotes.subscriptions()
        counters["retained"] = core.router.retained.count
        counters["retained_bytes"] = core.router.retained.payload_bytes
        counters["memory_bytes"] = router_bytes(core.router)
        counters["journal_bytes"] = core.router.journal.bytes
        counters["journal_records"] = core.router.journal.records
        counters["memory_peak"] = core.router.ledger.peak
        return counters

    def connected(self) -> list:
        """(connection, client id, user name or None) of every client that is connected."""
        self._check()
        cdef Conn* c
        cdef Session* s
        cdef uint32_t i
        cdef list out = []
        for i in range(self._core.conns_cap):
            c = self._core.conns[i]
            s = <Session*> c.peer.link.session if c != NULL and not c.closing else NULL
            if s != NULL:
                out.append((conn_id(c), (<char*> session_id(s))[:s.id_len],
                            (<char*> user_name(s.user))[:s.user.len] if s.user != NULL else None))
        return out

    def clients(self) -> list:
        """Of every session: client id, connected, version or 0, queued, in flight, dropped, subscriptions, user."""
        self._check()
        cdef Core* core = &self._core
        cdef Session* s
        cdef uint32_t i
        cdef list out = []
        for i in range(table_size(&core.sessions.table)):
            s = <Session*> table_at(&core.sessions.table, i)
            if s != NULL:
                out.append((
                    (<char*> session_id(s))[:s.id_len], s.link != NULL, s.link.version if s.link != NULL else 0,
                    s.queue.n, s.window.used, s.dropped, s.base.owner.n,
                    (<char*> user_name(s.user))[:s.user.len] if s.user != NULL else None,
                ))
        return out

    @property
    def is_full(self) -> bool:
        """Whether the memory limit is reached: no new work is taken on."""
        return router_full(self._core.router)

    @property
    def now_ms(self) -> int:
        """Engine time."""
        return core_clock(&self._core)

    def advance(self, int64_t ms) -> None:
        """Moves the clock forward and fires what falls due: for tests of time, without waiting for it."""
        self._check()
        self._core.clock_offset_ms += ms
        core_advance(&self._core, core_clock(&self._core))
        core_wake(&self._core)
