# cython: language_level=3, boundscheck=False, wraparound=False
"""See _records.pxd."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy

from fastmq._wire cimport check_filter, check_topic_name, skip_property, utf8_valid

cdef enum:
    UV_SIZE = 10
    TEXT_MAX = 0xFFFF
    SUBSCRIPTION_ID_MAX = 268435455
    SUBSCRIPTION_IDS_MAX = 4096

cdef int64_t NUMBER_MAX = 0x7FFFFFFFFFFFFFFF
cdef int64_t U32_MAX = 0xFFFFFFFF
cdef int64_t CLOCK_MAX = <int64_t> 1 << 60


# -- one record --------------------------------------------------------------------------------------------------------

cdef inline const char* take_u8(const uint8_t** at, const uint8_t* end, uint8_t most, uint8_t* out) noexcept nogil:
    if at[0] >= end:
        return b"is cut off"
    out[0] = at[0][0]
    if out[0] > most:
        return b"has flags or a number that are not allowed"
    at[0] += 1
    return NULL


cdef inline const char* take_u16(const uint8_t** at, const uint8_t* end, uint16_t* out) noexcept nogil:
    if end - at[0] < 2:
        return b"is cut off"
    out[0] = <uint16_t> (at[0][0] | (<uint32_t> at[0][1] << 8))
    at[0] += 2
    return NULL


cdef inline const char* take_uv(const uint8_t** at, const uint8_t* end, int64_t most, int64_t* out) noexcept nogil:
    cdef const uint8_t* p = at[0]
    cdef uint64_t value = 0
    cdef int shift = 0
    while True:
        if p >= end:
            return b"is cut off"
        if shift == 63 and p[0] > 0:  # bits above the 63 that a number may have
            return b"has a number of more than 63 bits"
        value |= <uint64_t> (p[0] & 127) << shift
        shift += 7
        p += 1
        if (p - 1)[0] < 128:
            break
    if value > <uint64_t> most:
        return b"has a number that is too large"
    at[0] = p
    out[0] = <int64_t> value
    return NULL


cdef inline const char* take_blob(
    const uint8_t** at, const uint8_t* end, int64_t most, const uint8_t** data, size_t* size
) noexcept nogil:
    cdef int64_t n
    cdef const char* wrong = take_uv(at, end, most, &n)
    if wrong != NULL:
        return wrong
    if n > end - at[0]:
        return b"is cut off"
    data[0] = at[0]
    size[0] = <size_t> n
    at[0] += n
    return NULL


cdef int share_kind(const uint8_t* text, size_t n) noexcept nogil:
    """0: an ordinary filter; 1: of a shared group; -1: neither [MQTT-4.8.2-1] [MQTT-4.8.2-2]."""
    cdef size_t i
    if n >= 7 and memcmp(text, b"$queue/", 7) == 0:
        return 1 if n > 7 else -1
    if n < 7 or memcmp(text, b"$share/", 7) != 0:
        return -1 if n == 6 and memcmp(text, b"$share", 6) == 0 else 0
    for i in range(7, n):
        if text[i] == b"/":
            return 1 if i > 7 and i + 1 < n else -1
        if text[i] == b"+" or text[i] == b"#":
            return -1
    return -1


cdef inline const char* take_filter(const uint8_t** at, const uint8_t* end, Record* out) noexcept nogil:
    cdef bint has_wildcard
    cdef const char* wrong = take_blob(at, end, TEXT_MAX, &out.text, &out.text_len)
    if wrong == NULL and check_filter(out.text, <uint32_t> out.text_len, TEXT_MAX + 1, &has_wildcard):
        return b"has no topic filter"
    if wrong == NULL and share_kind(out.text, out.text_len) < (1 if out.kind == K_GROUP else 0):
        return b"has no filter of a shared group"
    return wrong


cdef inline const char* take_state(const uint8_t** at, const uint8_t* end, Record* out) noexcept nogil:
    cdef const char* wrong = take_u16(at, end, &out.packet_id)
    if wrong == NULL and (out.flags >> 3 == 0) != (out.packet_id == 0):
        return b"has a packet id that its state does not allow"
    return wrong


cdef const char* take_message(const uint8_t** at, const uint8_t* end, Record* out) noexcept nogil:
    cdef const uint8_t* payload
    cdef int64_t origin
    cdef const char* wrong = take_u8(at, end, 0x0F, &out.flags)
    if wrong == NULL and out.flags & 3 == 3:
        return b"has QoS 3"
    if wrong == NULL:
        wrong = take_uv(at, end, NUMBER_MAX, &origin)
    if wrong == NULL and out.flags & 8:
        wrong = take_uv(at, end, NUMBER_MAX, &out.b)
    if wrong == NULL:
        wrong = take_blob(at, end, TEXT_MAX, &out.text, &out.text_len)
    if wrong == NULL and check_topic_name(out.text, <uint32_t> out.text_len, TEXT_MAX + 1):
        return b"has no topic name"
    if wrong == NULL:
        wrong = take_blob(at, end, NUMBER_MAX, &out.properties, &out.properties_len)
    if wrong == NULL:
        wrong = take_blob(at, end, NUMBER_MAX, &payload, &out.payload_len)
    return wrong


cdef const char* take_delivery(const uint8_t** at, const uint8_t* end, Record* out) noexcept nogil:
    cdef int64_t count = 0, ignored
    cdef const char* wrong = take_uv(at, end, NUMBER_MAX, &out.b)
    if wrong == NULL:
        wrong = take_uv(at, end, NUMBER_MAX, &out.c)
    if wrong == NULL:
        wrong = take_u8(at, end, 0x1F, &out.flags)
    if wrong == NULL and out.flags & 3 == 3:
        return b"has QoS 3"
    if wrong == NULL:
        wrong = take_state(at, end, out)
    if wrong == NULL:
        wrong = take_uv(at, end, NUMBER_MAX, &count)
    if wrong == NULL and count > SUBSCRIPTION_IDS_MAX:
        return b"has too many subscription identifiers"
    out.ids = at[0]
    while wrong == NULL and count > 0:
        wrong = take_uv(at, end, SUBSCRIPTION_ID_MAX, &ignored)
        if wrong == NULL and ignored == 0:
            return b"has subscription identifier 0"
        count -= 1
    out.ids_len = <size_t> (at[0] - out.ids)
    return wrong


cdef const char* take_session(const uint8_t** at, const uint8_t* end, Record* out) noexcept nogil:
    cdef const char* wrong = take_blob(at, end, TEXT_MAX, &out.text, &out.text_len)
    if wrong == NULL and not utf8_valid(out.text, <uint32_t> out.text_len):
        return b"has text that is not UTF-8"
    if wrong == NULL:
        wrong = take_uv(at, end, U32_MAX, &out.b)
    if wrong == NULL:
        wrong = take_uv(at, end, NUMBER_MAX, &out.c)
    if wrong == NULL:
        wrong = take_uv(at, end, NUMBER_MAX, &out.d)
    return wrong


cdef const char* take_will(const uint8_t** at, const uint8_t* end, Record* out) noexcept nogil:
    cdef const char* wrong = take_uv(at, end, NUMBER_MAX, &out.b)
    if wrong == NULL:
        wrong = take_uv(at, end, U32_MAX, &out.c)
    if wrong == NULL:
        wrong = take_u8(at, end, 1, &out.flags)
    if wrong == NULL:
        wrong = take_uv(at, end, U32_MAX, &out.d)
    return wrong


cdef const char* take_subscribed(const uint8_t** at, const uint8_t* end, Record* out) noexcept nogil:
    cdef const char* wrong = take_u8(at, end, 0xBF, &out.flags)
    if wrong == NULL and (out.flags & 3 == 3 or out.flags & 0x30 == 0x30 or out.flags & 0x40):
        return b"has no subscription options"
    if wrong == NULL:
        wrong = take_uv(at, end, SUBSCRIPTION_ID_MAX, &out.b)
    if wrong == NULL:
        wrong = take_filter(at, end, out)
    return wrong


cdef const char* record_next(const uint8_t** at, const uint8_t* end, Record* out) noexcept nogil:
    """Reads the record at `at` (< end) and moves `at` past it. NULL, or what is wrong with it, at or before `at`."""
    cdef const char* wrong
    cdef uint8_t kind = at[0][0]
    out.start = at[0]
    out.kind = kind
    out.b = 0
    if kind == 0 or kind > K_STUB:
        return b"is of no known kind"
    at[0] += 1
    wrong = take_uv(at, end, NUMBER_MAX, &out.a)
    if wrong != NULL:
        return wrong
    if kind == K_MESSAGE:
        wrong = take_message(at, end, out)
    elif kind == K_DELIVERY:
        wrong = take_delivery(at, end, out)
    elif kind == K_DONE:
        wrong = take_uv(at, end, NUMBER_MAX, &out.b)
    elif kind == K_STATE:
        wrong = take_uv(at, end, NUMBER_MAX, &out.b)
        if wrong == NULL:
            wrong = take_u8(at, end, 3, &out.flags)
        if wrong == NULL:
            out.flags = out.flags << 3
            wrong = take_state(at, end, out)
    elif kind == K_CLOCK:
        if out.a > CLOCK_MAX:
            wrong = b"has a time that is too late"
    elif kind == K_RECEIVED or kind == K_RELEASED:
        wrong = take_u16(at, end, &out.packet_id)
        if wrong == NULL and out.packet_id == 0:
            wrong = b"has packet id 0"
    elif kind == K_SESSION:
        wrong = take_session(at, end, out)
    elif kind == K_SUBSCRIBED:
        wrong = take_subscribed(at, end, out)
    elif kind == K_UNSUBSCRIBED or kind == K_GROUP:
        wrong = take_filter(at, end, out)
    elif kind == K_WILL:
        wrong = take_will(at, end, out)
    elif kind == K_STUB:
        wrong = take_uv(at, end, NUMBER_MAX, &out.b)
        if wrong == NULL:
            wrong = take_uv(at, end, NUMBER_MAX, &out.c)
    out.size = <size_t> (at[0] - out.start)
    return wrong


cdef bint properties_valid(const Record* m) noexcept nogil:
    """Whether a message's properties are properties, so that no damaged row makes a damaged packet."""
    cdef const uint8_t* at = m.properties
    cdef const uint8_t* end = at + m.properties_len
    cdef int used
    if m.properties_len > 0x0FFFFFFF:
        return False
    while at < end:
        used = skip_property(at, end)
        if used < 0:
            return False
        at += used
    return True


# -- bytes that grow ---------------------------------------------------------------------------------------------------

cdef bint buffer_room(Buffer* b, size_t more) noexcept nogil:
    """Room for so many more bytes. False: out of memory, nothing changed."""
    cdef size_t room = b.room if b.room else 4096
    cdef void* data
    if b.room - b.size >= more and b.data != NULL:
        return True
    while room - b.size < more:
        room *= 2
    data = realloc(b.data, room)
    if data == NULL:
        return False
    b.data = <uint8_t*> data
    b.room = room
    return True


cdef size_t put_uv(uint8_t* p, uint64_t value) noexcept nogil:
    """Writes a number, at most 10 bytes; returns how many."""
    cdef size_t n = 0
    while value > 127:
        p[n] = <uint8_t> (value & 127) | 128
        value >>= 7
        n += 1
    p[n] = <uint8_t> value
    return n + 1


# -- what Python sees --------------------------------------------------------------------------------------------------

def scan(bytes batch not None):
    """(engine ms or -1, number of MESSAGE, lowest and highest id in MESSAGE and FORGET). Raises ValueError."""
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(batch)
    cdef const uint8_t* at = start
    cdef const uint8_t* end = start + PyBytes_GET_SIZE(batch)
    cdef const char* wrong = NULL
    cdef int64_t clock = -1, messages = 0, low = 0, high = -1
    cdef Record r
    with nogil:
        while at < end:
            wrong = record_next(&at, end, &r)
            if wrong == NULL and r.kind == K_STUB:
                wrong = b"is a STUB, which only a store writes"
            if wrong != NULL:
                break
            if r.kind == K_MESSAGE or r.kind == K_FORGET:
                low = r.a if high < 0 or r.a < low else low
                high = r.a if r.a > high else high
                messages += r.kind == K_MESSAGE
            elif r.kind == K_CLOCK:
                clock = r.a if r.a > clock else clock
    if wrong != NULL:
        raise ValueError(f"record at offset {at - start}: {wrong.decode()}")
    return clock, messages, low, high


def pick(bytes batch not None, dict into not None):
    """Puts the MESSAGE records of a batch into a dict that has their ids as keys, and drops there what is forgotten.

    Returns what it understood: False when the rest of the batch is malformed.
    """
    cdef const uint8_t* at = <const uint8_t*> PyBytes_AS_STRING(batch)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(batch)
    cdef Record r
    cdef object id
    while at < end:
        if record_next(&at, end, &r) != NULL:
            return False
        if r.kind == K_MESSAGE:
            id = r.a
            if id in into and properties_valid(&r):
                into[id] = PyBytes_FromStringAndSize(<const char*> r.start, r.size)
        elif r.kind == K_FORGET:
            id = r.a
            if id in into:
                into[id] = None
    return True


cdef class Ids:
    """A set of message ids, 8 to 24 bytes each."""

    cdef uint64_t* _slots  # id + 1; 0 = free
    cdef size_t _mask
    cdef readonly size_t count

    def __cinit__(self):
        self._mask = 1023
        self._slots = <uint64_t*> calloc(1024, sizeof(uint64_t))
        if self._slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._slots)

    def __contains__(self, int64_t id):
        return self.has(id)

    def __len__(self):
        return self.count

    def __iter__(self):
        cdef size_t i
        for i in range(self._mask + 1):
            if self._slots[i]:
                yield self._slots[i] - 1

    cdef bint has(self, int64_t id) noexcept nogil:
        cdef size_t at = self.home(<uint64_t> id) & self._mask
        while self._slots[at] and self._slots[at] != <uint64_t> id + 1:
            at = (at + 1) & self._mask
        return self._slots[at] != 0

    cdef size_t home(self, uint64_t id) noexcept nogil:
        return <size_t> ((id * 0x9E3779B97F4A7C15ULL) >> 20)

    cdef int put(self, int64_t id) except -1:
        cdef size_t at = self.home(<uint64_t> id) & self._mask
        while self._slots[at]:
            if self._slots[at] == <uint64_t> id + 1:
                return 0
            at = (at + 1) & self._mask
        self._slots[at] = <uint64_t> id + 1
        self.count += 1
        if self.count * 2 > self._mask:
            self.grow()
        return 0

    cdef int grow(self) except -1:
        cdef size_t mask = self._mask * 2 + 1, at, i
        cdef uint64_t* slots = <uint64_t*> calloc(mask + 1, sizeof(uint64_t))
        if slots == NULL:
            raise MemoryError
        for i in range(self._mask + 1):
            if self._slots[i]:
                at = self.home(self._slots[i] - 1) & mask
                while slots[at]:
                    at = (at + 1) & mask
                slots[at] = self._slots[i]
        free(self._slots)
        self._slots = slots
        self._mask = mask
        return 0

    def add(self, int64_t id):
        self.put(id)

    def add_rows(self, list rows not None):
        """Adds the first column of rows; raises ValueError for what is no id."""
        cdef object row
        for row in rows:
            self.put(number(row, 0, NUMBER_MAX))


cdef object item(object row, Py_ssize_t i):
    if not PyTuple_CheckExact(row) or i >= PyTuple_GET_SIZE(row):
        raise ValueError("a row has too few columns")
    return <object> PyTuple_GET_ITEM(row, i)


cdef int64_t number(object row, Py_ssize_t i, int64_t most) except -1:
    """The number in a column. SQLite lets a column hold anything, so a damaged one may."""
    cdef object value = item(row, i)
    cdef int64_t n
    if type(value) is not int:
        raise ValueError(f"column {i} is no number: {value!r:.50}")
    try:
        n = value
    except OverflowError:
        n = -1
    if not 0 <= n <= most:
        raise ValueError(f"column {i} is out of range: {value}")
    return n


cdef class Pack:
    """Makes batches of records from rows of tables, and checks them as it does.

    A row that makes no valid record raises ValueError, and is left out.
    """

    cdef Buffer _out

    def __dealloc__(self):
        free(self._out.data)

    def __len__(self):
        return self._out.size

    def take(self):
        """The records so far, which are forgotten here."""
        cdef bytes taken = PyBytes_FromStringAndSize(<const char*> self._out.data, self._out.size)
        self._out.size = 0
        return taken

    cdef int begin(self, int kind) except -1:
        if not buffer_room(&self._out, 1 + 6 * UV_SIZE):
            raise MemoryError
        self._out.data[self._out.size] = <uint8_t> kind
        self._out.size += 1
        return 0

    cdef void uv(self, int64_t value) noexcept:
        self._out.size += put_uv(self._out.data + self._out.size, <uint64_t> value)

    cdef void u8(self, int value) noexcept:
        self._out.data[self._out.size] = <uint8_t> value
        self._out.size += 1

    cdef int raw(self, bytes data) except -1:
        cdef size_t size = PyBytes_GET_SIZE(data)
        if not buffer_room(&self._out, size + 6 * UV_SIZE):
            raise MemoryError
        memcpy(self._out.data + self._out.size, PyBytes_AS_STRING(data), size)
        self._out.size += size
        return 0

    cdef int blob(self, object row, Py_ssize_t i) except -1:
        cdef object data = item(row, i)
        if not PyBytes_CheckExact(data):
            raise ValueError(f"column {i} is no text: {data!r:.50}")
        self.uv(PyBytes_GET_SIZE(data))
        return self.raw(<bytes> data)

    cdef int check(self, size_t start) except -1:
        """The record since `start` must read as one record; else it is taken back."""
        cdef const uint8_t* at = self._out.data + start
        cdef const uint8_t* end = self._out.data + self._out.size
        cdef Record r
        cdef const char* wrong = record_next(&at, end, &r)
        if wrong == NULL and at != end:
            wrong = b"is followed by other bytes"
        if wrong != NULL:
            raise ValueError(f"the row {wrong.decode()}")
        return 0

    cdef int append(self, int kind, object row) except -1:
        cdef int64_t count
        if kind == K_MESSAGE:  # (id, record)
            return self.message(row)
        self.begin(kind)
        self.uv(number(row, 0, NUMBER_MAX))
        if kind == K_DELIVERY:  # (subscriber, position, message, flags, packet id, None or ids)
            self.uv(number(row, 1, NUMBER_MAX))
            self.uv(number(row, 2, NUMBER_MAX))
            self.u8(<int> number(row, 3, 255))
            self.packet_id(row, 4)
            if item(row, 5) is None:
                self.u8(0)
            elif PyBytes_CheckExact(item(row, 5)):
                count = count_uv(<bytes> item(row, 5))
                self.uv(count)
                self.raw(<bytes> item(row, 5))
            else:
                raise ValueError("column 5 has no subscription ids")
        elif kind == K_STUB:  # (id, size, expires_ms)
            self.uv(number(row, 1, NUMBER_MAX))
            self.uv(number(row, 2, NUMBER_MAX))
        elif kind == K_SESSION:  # (serial, client_id, expiry_s, expires_ms, will_at_ms)
            self.blob(row, 1)
            self.uv(number(row, 2, U32_MAX))
            self.uv(number(row, 3, NUMBER_MAX))
            self.uv(number(row, 4, NUMBER_MAX))
        elif kind == K_SUBSCRIBED:  # (session, filter, options, id)
            self.u8(<int> number(row, 2, 255))
            self.uv(number(row, 3, SUBSCRIPTION_ID_MAX))
            self.blob(row, 1)
        elif kind == K_RECEIVED:  # (session, packet id)
            self.packet_id(row, 1)
        elif kind == K_WILL:  # (session, message, delay_s, None or expiry_s)
            self.uv(number(row, 1, NUMBER_MAX))
            self.uv(number(row, 2, U32_MAX))
            self.u8(item(row, 3) is not None)
            self.uv(0 if item(row, 3) is None else number(row, 3, U32_MAX))
        elif kind == K_GROUP:  # (serial, text)
            self.blob(row, 1)
        return 0

    cdef int message(self, object row) except -1:
        cdef object data = item(row, 1)
        cdef const uint8_t* at
        cdef const uint8_t* end
        cdef const char* wrong
        cdef Record r
        if not PyBytes_CheckExact(data) or PyBytes_GET_SIZE(data) == 0:
            raise ValueError("column 1 has no record")
        at = <const uint8_t*> PyBytes_AS_STRING(data)
        end = at + PyBytes_GET_SIZE(data)
        wrong = record_next(&at, end, &r)
        if wrong != NULL:
            raise ValueError(f"the row {wrong.decode()}")
        if at != end or r.kind != K_MESSAGE or r.a != number(row, 0, NUMBER_MAX) or not properties_valid(&r):
            raise ValueError("column 1 has another record, or bad properties")
        return self.raw(<bytes> data)

    cdef void packet_id_bytes(self, int value) noexcept:
        self.u8(value & 255)
        self.u8(value >> 8)

    cdef int packet_id(self, object row, Py_ssize_t i) except -1:
        self.packet_id_bytes(<int> number(row, i, 0xFFFF))
        return 0

    cdef bint is_over(self, object row, Ids live, Ids expired) except -1:
        """Whether a delivery has nothing to deliver any more. What was sent already is another matter."""
        cdef int64_t state = number(row, 3, 255) >> 3, message = number(row, 2, NUMBER_MAX)
        if state == 3:
            return False  # it awaits PUBCOMP and needs no message
        return not live.has(message) or (state == 0 and expired is not None and expired.has(message))

    def add_deliveries(self, list rows not None, Ids needed not None, Ids expired not None):
        """Adds a DELIVERY for each row, and the messages that they need to `needed`. Raises as `add` does."""
        cdef object row
        cdef int64_t state, message
        self.add(K_DELIVERY, rows)
        for row in rows:
            state, message = number(row, 3, 255) >> 3, number(row, 2, NUMBER_MAX)
            # One that awaits PUBCOMP (3) needs none. What was sent (1, 2) is sent again, expired or not.
            if state != 3 and (state != 0 or not expired.has(message)):
                needed.put(message)

    def add(self, int kind, list rows not None, Ids live=None, Ids expired=None):
        """Adds a record for each row; raises ValueError at the first bad one.

        With `live` and `expired`, the rows are deliveries, and those that have nothing to deliver are left out. Returns
        their subscriber and position.
        """
        cdef object row
        cdef size_t start
        cdef Py_ssize_t i
        cdef list left_out = []
        for i in range(PyList_GET_SIZE(rows)):
            row = <object> PyList_GET_ITEM(rows, i)
            if live is not None and self.is_over(row, live, expired):
                left_out.append((number(row, 0, NUMBER_MAX), number(row, 1, NUMBER_MAX)))
                continue
            start = self._out.size
            try:
                self.append(kind, row)
                self.check(start)
            except ValueError:
                self._out.size = start
                raise
        return left_out

    def add_stubs(self, list rows not None, Ids needed not None, Ids whole not None, Ids live not None):
        """Adds a STUB for each row (id, size, expires_ms) that is needed, but not whole; all needed ones are live then.

        Returns the ids that nobody needs.
        """
        cdef list orphans = []
        cdef object row
        cdef int64_t id
        for row in rows:
            id = number(row, 0, NUMBER_MAX)
            if not needed.has(id):
                orphans.append(id)
                continue
            live.put(id)
            if not whole.has(id):
                self.append(K_STUB, row)
        return orphans


cdef int64_t count_uv(bytes data) noexcept:
    """How many numbers bytes hold: those that end one."""
    cdef const uint8_t* p = <const uint8_t*> PyBytes_AS_STRING(data)
    cdef int64_t count = 0
    cdef Py_ssize_t i
    for i in range(PyBytes_GET_SIZE(data)):
        count += p[i] < 128
    return count


def split(bytes records not None, dict into not None):
    """Puts MESSAGE records that are back to back into a dict by id. Raises ValueError when they are anything else."""
    cdef const uint8_t* start = <const uint8_t*> PyBytes_AS_STRING(records)
    cdef const uint8_t* at = start
    cdef const uint8_t* end = start + PyBytes_GET_SIZE(records)
    cdef const char* wrong
    cdef Record r
    while at < end:
        wrong = record_next(&at, end, &r)
        if wrong != NULL or r.kind != K_MESSAGE or not properties_valid(&r):
            raise ValueError(f"no message before offset {at - start}")
        into[r.a] = PyBytes_FromStringAndSize(<const char*> r.start, r.size)
