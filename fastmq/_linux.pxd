# cython: language_level=3
"""The system calls of the hub: epoll, eventfd, timerfd, sockets. Declarations only."""
from libc.stdint cimport uint32_t, uint64_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int n, int timeout)
    int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_NONBLOCK, EFD_CLOEXEC

cdef extern from "<sys/timerfd.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new, itimerspec* old)
    int TFD_NONBLOCK, TFD_CLOEXEC

cdef extern from "<time.h>" nogil:
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec* out)

cdef extern from "<sys/socket.h>" nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/uio.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    extern int accept4(int, struct sockaddr*, socklen_t*, int);
    """
    cdef struct iovec:
        void* iov_base
        size_t iov_len
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t recv(int fd, void* buf, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int accept4(int fd, void* address, void* len, int flags)
    int setsockopt(int fd, int level, int name, const void* value, uint32_t len)
    int shutdown(int fd, int how)
    int MSG_NOSIGNAL, SHUT_WR, SOCK_NONBLOCK, SOCK_CLOEXEC, IPPROTO_TCP, TCP_NODELAY

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* buf, size_t n)
    ssize_t write(int fd, const void* buf, size_t n)
    int close(int fd)

cdef extern from "<sys/socket.h>" nogil:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <stdio.h>
    static inline void peer_text(int fd, char* out, size_t n) {
        struct sockaddr_storage a; socklen_t len = sizeof a; char ip[INET6_ADDRSTRLEN];
        out[0] = 0;
        if (getpeername(fd, (struct sockaddr*)&a, &len)) return;
        if (a.ss_family == AF_INET) {
            struct sockaddr_in* v4 = (struct sockaddr_in*)&a;
            inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof ip);
            snprintf(out, n, "%s:%u", ip, ntohs(v4->sin_port));
        } else if (a.ss_family == AF_INET6) {
            struct sockaddr_in6* v6 = (struct sockaddr_in6*)&a;
            inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof ip);
            snprintf(out, n, "[%s]:%u", ip, ntohs(v6->sin6_port));
        }
    }
    """
    void peer_text(int fd, char* out, size_t n)

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int command, ...)
    int F_DUPFD_CLOEXEC
