# cython: language_level=3
"""What a client's packets mean once it is connected: one function from packet to effect. No sockets, no Python objects.

CONNECT and AUTH go up to Python (ESCALATE); everything else is answered here.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from fastmq._access cimport Denials
from fastmq._items cimport Fabric, Remote
from fastmq._link cimport Link
from fastmq._router cimport Router, Waits
from fastmq._session cimport Session, Sessions

cdef enum Phase:                 # of a connection; the only moves are downwards
    AWAIT_CONNECT = 0
    CONNECTING = 1               # Python decides about its CONNECT; nothing is read
    AUTHENTICATING = 2           # as before, but the client was asked for an AUTH
    OPEN = 3
    CLOSING = 4                  # the session is gone; what is queued may still leave
    LINGERING = 5                # our side is shut; reading on so that the client gets our last words

cdef enum Verdict:               # of a packet; values from 0x80 on are the reason code to disconnect with
    GO_ON = 0
    CLIENT_LEFT = 1              # a DISCONNECT: the connection ends without a word of ours
    ESCALATE = 2                 # the packet is Python's

cdef enum:
    TOPIC_MAX = 65535

cdef struct Protocol:            # settings that packets are held to; one per worker
    Router* router
    Sessions* sessions
    uint32_t levels_max
    uint16_t receive_max
    uint16_t alias_max
    uint8_t qos_max
    uint8_t retain_available
    uint8_t wildcard_available
    uint8_t shared_available
    uint8_t ids_available
    uint8_t check_payload        # whether a payload that is said to be UTF-8 is looked at
    uint8_t deny_closes          # who is denied something is disconnected
    Denials denials
    Fabric* fabric               # NULL: there is one worker
    uint8_t* room                # TOPIC_MAX bytes for a topic with its mount point; NULL: nobody has needed it

cdef struct InboundAlias:
    uint8_t* topic               # owned; NULL = not set
    uint32_t len

cdef struct Peer:                # one connection, as the protocol sees it
    Link link                    # first: a Peer* is a Link*
    Protocol* protocol
    InboundAlias* aliases        # alias_max entries, allocated at first use
    uint8_t phase
    uint8_t is_bridge            # protocol level 0x83 or 0x84: RSMB's and Mosquitto's bridges
    uint8_t keep_will            # DISCONNECT 0x04 [MQTT-3.14.4-3 does not apply]
    uint8_t unwelcome            # it was denied something, and is to be disconnected
    uint8_t hold                 # memory is full: the caller pauses reading, the packet is to be given again
    Remote* remote               # the other worker at the other end; NULL: a client is there
    Waits waits                  # acknowledgements to it that wait for other workers

cdef inline Session* peer_session(Peer* c) noexcept nogil:
    return <Session*> c.link.session

cdef int protocol_packet(Peer* c, uint8_t first, uint8_t* body, uint32_t n) noexcept nogil
cdef void peer_disconnect(Peer* c, uint8_t reason) noexcept nogil
cdef void peer_detach(Peer* c) noexcept nogil
cdef void peer_clear(Peer* c) noexcept nogil
