# cython: language_level=3, boundscheck=False, wraparound=False
"""See _wait.pxd."""
from libc.stdlib cimport calloc, free

from fastmq._journal cimport REC_RECEIVED, journal_gate, record_packet_id
from fastmq._link cimport link_ack, link_promise
from fastmq._message cimport charge
from fastmq._wire cimport put64, put_varint


cdef Wait* wait_more(Router* r) noexcept nogil:
    """What the publish that is being routed waits for, with one copy more. NULL: out of memory."""
    cdef Wait* w = <Wait*> r.wait
    if w == NULL:
        w = <Wait*> calloc(1, sizeof(Wait))
        if w == NULL:
            return NULL
        charge(&r.ledger, <int64_t> sizeof(Wait))
        w.router = r
        r.wait = w
    w.n += 1
    return w


cdef void wait_free(Wait* w) noexcept nogil:
    w.router.ledger.bytes -= <int64_t> sizeof(Wait)
    free(w)


cdef void unhang(Wait* w) noexcept nogil:
    cdef Waits* waits = w.waits
    if w.prev != NULL:
        w.prev.next = w.next
    else:
        waits.head = w.next
    if w.next != NULL:
        w.next.prev = w.prev
    else:
        waits.tail = w.prev
    w.waits = NULL


cdef void hang(Waits* waits, Wait* w) noexcept nogil:
    w.waits = waits
    w.next = NULL
    w.prev = <Wait*> waits.tail
    if waits.tail != NULL:
        (<Wait*> waits.tail).next = w
    else:
        waits.head = w
    waits.tail = w


cdef void leave(Wait* w, Link* l) noexcept nogil:
    """Writes the acknowledgement and frees what waited."""
    cdef Router* r = w.router
    cdef uint8_t* out
    if w.records:
        # Only now: after a crash its publisher repeats it, and what was not acknowledged to us is routed again.
        record_packet_id(&r.journal, REC_RECEIVED, w.value, w.packet_id)
        w.gate = journal_gate(&r.journal)
    if w.gate <= r.journal.committed:
        w.gate = 0
    if w.kind != ACK_ITEM:
        link_ack(l, w.kind, w.packet_id, w.reason, w.gate)
    else:
        out = link_promise(l, ACK_ITEM_SIZE, w.gate)
        if out != NULL:
            out[0] = ACK_ITEM
            put64(put_varint(out + 1, 8), w.value)
    unhang(w)
    wait_free(w)


cdef void settle(Waits* waits) noexcept nogil:
    """A client's acknowledgements leave as far as none before them waits."""
    while waits.head != NULL and (<Wait*> waits.head).n == 0:
        leave(<Wait*> waits.head, <Link*> waits.link)


cdef void wait_less(Wait* w) noexcept nogil:
    """One copy has been acknowledged. NULL: nobody waits for it."""
    if w == NULL:
        return
    w.n -= 1
    if w.n:
        return
    if w.waits == NULL:
        if w.router.wait == w:
            w.router.wait = NULL
        wait_free(w)
    elif w.waits.link == NULL:
        return                   # its publisher will repeat it
    elif w.kind == ACK_ITEM:
        leave(w, <Link*> w.waits.link)
    else:
        settle(w.waits)


cdef void wait_commit(Wait* w) noexcept nogil:
    """Instead of by another worker, a copy is kept by our store: its commit counts."""
    cdef uint64_t gate
    if w == NULL:
        return
    gate = journal_gate(&w.router.journal)
    if gate > w.gate:
        w.gate = gate
    if gate == w.router.journal.seq:
        w.router.journal.urgent = 1


cdef bint wait_ack(
    Waits* waits, Link* link, Router* r, uint8_t kind, uint16_t packet_id, uint8_t reason, uint64_t gate,
    uint64_t value, bint records
) noexcept nogil:
    """Acknowledges the publish that was just routed, as soon as all that it waits for has come.

    False: out of memory; then nothing is acknowledged.
    """
    cdef Wait* w = <Wait*> r.wait
    r.wait = NULL
    if w == NULL:
        w = <Wait*> calloc(1, sizeof(Wait))
        if w == NULL:
            return False
        charge(&r.ledger, <int64_t> sizeof(Wait))
        w.router = r
    w.gate = gate if gate > w.gate else w.gate
    if gate == r.journal.seq:
        r.journal.urgent = 1
    w.kind = kind
    w.packet_id = packet_id
    w.reason = reason
    w.value = value
    w.records = records
    hang(waits, w)
    waits.link = link
    if kind == ACK_ITEM:
        if w.n == 0:
            leave(w, link)
    else:
        settle(waits)
    return True


cdef void waits_drop(Waits* waits) noexcept nogil:
    """The connection is over. PUBRECs are kept for their publishers, who will repeat what they published."""
    cdef Wait* w
    while waits.head != NULL:
        w = <Wait*> waits.head
        unhang(w)
        if w.kind == 0x50:
            hang(&w.router.unclaimed, w)
        elif w.n == 0:
            wait_free(w)


cdef bint wait_resume(Waits* waits, Link* link, Router* r, uint64_t serial, uint16_t packet_id) noexcept nogil:
    """A publish is repeated that was received over an earlier connection; False: it has been acknowledged."""
    cdef Wait* w = <Wait*> r.unclaimed.head
    while w != NULL and not (w.value == serial and w.packet_id == packet_id):
        w = w.next
    if w == NULL:
        return False
    unhang(w)
    waits.link = link
    hang(waits, w)
    settle(waits)
    return True


cdef void waits_forget(Router* r, uint64_t serial) noexcept nogil:
    """A session has ended: what it published with QoS 2 will not be repeated. Serial 0: all end."""
    cdef Wait* w = <Wait*> r.unclaimed.head
    cdef Wait* after
    while w != NULL:
        after = w.next
        if serial == 0 or w.value == serial:
            unhang(w)
            if w.n == 0:
                wait_free(w)
        w = after
