# cython: language_level=3
"""Packets <-> bytes, for everything but the broker's hot path: CONNECT and AUTH on the server, all of it in the client.

C callers hand over a pointer and a length that stay valid for the call; nothing borrowed survives it.
"""
from libc.stdint cimport uint8_t

cdef object decode_body(int first_byte, const uint8_t* body, Py_ssize_t size, int version)
cdef object decode_connect_body(const uint8_t* body, Py_ssize_t size)
cpdef bytes encode(object packet, int version, Py_ssize_t maximum_packet_size=*)


cdef class Decoder:
    cdef readonly int version                     # 0 until a CONNECT has told it
    cdef readonly Py_ssize_t maximum_packet_size  # bytes, fixed header included
    cdef bytearray _rest                          # a packet that is not whole yet; owned
    cdef Py_ssize_t _needed                       # bytes that `_rest` must reach before another look pays

    cdef Py_ssize_t _cut(self, const uint8_t* data, Py_ssize_t size, list packets) except -1
