#define _GNU_SOURCE
#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "gauge.h"

#define READ_SIZE (256 * 1024)
#define CONNECTS_AT_ONCE 64

struct net net;

static struct sockaddr_in broker;
static uint8_t *read_buffer;
static uint32_t read_room;

_Noreturn void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("mqtt-load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(2);
}

void *must_calloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size);
    if (!p)
        die("out of memory");
    return p;
}

void *must_realloc(void *old, size_t size)
{
    void *p = realloc(old, size);
    if (!p)
        die("out of memory");
    return p;
}

void net_start(const char *host, uint16_t port)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (net.clients + 16 > files.rlim_max)
        die("%u clients need a higher limit of open files (ulimit -n)", net.clients);
    prctl(PR_SET_TIMERSLACK, 1); /* paced publishing: wake when asked to, not 50 us later */
    broker = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, host, &broker.sin_addr) != 1)
        die("not an IPv4 address: %s", host);
    read_room = READ_SIZE + 2 * (net.largest_payload + 1024);
    read_buffer = must_calloc(1, read_room);
    net.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (net.epoll < 0)
        die("epoll: %s", strerror(errno));
}

static void watch(struct client *c, int operation, bool write)
{
    struct epoll_event event = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.ptr = c};
    c->wants_write = write;
    if (epoll_ctl(net.epoll, operation, c->fd, &event))
        die("epoll_ctl: %s", strerror(errno));
}

static void lose(struct client *c, const char *why)
{
    if (!net.lost++)
        fprintf(stderr, "mqtt-load: lost a connection: %s\n", why);
    if (c->phase == OPEN)
        net.open--;
    close(c->fd);
    c->phase = LOST;
}

uint8_t *net_room(struct client *c, uint32_t bytes)
{
    uint32_t need = c->out_length + bytes;
    if (need > c->out_room) {
        c->out_room = need + need / 2;
        c->out = must_realloc(c->out, c->out_room);
    }
    return c->out + c->out_length;
}

void net_flush(struct client *c)
{
    while (c->out_sent < c->out_length) {
        ssize_t n = send(c->fd, c->out + c->out_sent, c->out_length - c->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            if (!c->wants_write)
                watch(c, EPOLL_CTL_MOD, true);
            return;
        }
        if (n < 0) {
            lose(c, strerror(errno));
            return;
        }
        c->out_sent += (uint32_t)n;
    }
    c->out_sent = c->out_length = 0;
    if (c->wants_write)
        watch(c, EPOLL_CTL_MOD, false);
}

/* --- connecting ------------------------------------------------------------------------------------------------ */

static void begin_connect(struct client *c)
{
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        die("socket: %s", strerror(errno));
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&broker, sizeof broker) && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    c->phase = CONNECTING;
    c->receive_maximum = UINT16_MAX;
    watch(c, EPOLL_CTL_ADD, true);
}

static uint32_t fnv1a(const char *text)
{
    uint32_t hash = 0x811C9DC5;
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x01000193;
    return hash;
}

/* With homes, the first of the client's names that leads to the worker where it is to be. */
static void name_client(const struct client *c, char *name, size_t room)
{
    uint32_t index = c->id - 1, pair = index < net.subscribers ? index : index - net.subscribers;
    uint32_t home = net.homes ? (pair + (net.apart && index >= net.subscribers)) % net.homes : 0;
    for (uint32_t i = 0;; i++) {
        snprintf(name, room, "load-%d-%u-%u", (int)getpid(), c->id, i);
        if (!net.homes || fnv1a(name) % net.homes == home)
            return;
    }
}

static void finish_connect(struct client *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        lose(c, strerror(error));
        return;
    }
    char client_id[48];
    name_client(c, client_id, sizeof client_id);
    c->phase = AWAIT_CONNACK;
    net_wrote(c, put_connect(net_room(c, 128), net.version, client_id, 600, net.durable));
    net_flush(c);
}

static void on_connack(struct client *c, uint8_t head, const uint8_t *body, uint32_t length)
{
    if (head >> 4 != CONNACK || length < 2 || body[1] != 0) {
        lose(c, "the broker refused the CONNECT");
        return;
    }
    c->phase = OPEN;
    net.open++;
    if (net.version == MQTT_5)
        c->receive_maximum = get_receive_maximum(body, length);
    net.workload->opened(c);
}

static void begin_numbered(uint32_t index)
{
    struct client *c = net.client_at(index);
    c->id = index + 1;
    begin_connect(c);
}

bool net_connect_all(double timeout_s)
{
    uint64_t end = now_ns() + (uint64_t)(timeout_s * 1e9);
    while (net.open + net.lost < net.clients) {
        while (net.started < net.clients && net.started - net.open - net.lost < CONNECTS_AT_ONCE)
            begin_numbered(net.started++);
        net_turn(10 * MS);
        if (now_ns() > end)
            break;
    }
    return net.open == net.clients;
}

static void say_goodbye(struct client *c)
{
    if (c->phase == OPEN && !c->out_length) {
        uint8_t *p = net_room(c, 2);
        *p++ = DISCONNECT << 4;
        *p++ = 0;
        net_wrote(c, p);
        net_flush(c);
    }
    if (c->phase != LOST)
        close(c->fd);
}

void net_leave(struct client *c)
{
    say_goodbye(c);
    if (c->phase == OPEN)
        net.open--;
    c->phase = UNUSED;
    c->stash_length = c->out_length = c->out_sent = 0;
}

bool net_return(struct client *c, double timeout_s)
{
    uint64_t end = now_ns() + (uint64_t)(timeout_s * 1e9);
    begin_connect(c);
    while (c->phase != OPEN && c->phase != LOST && now_ns() < end)
        net_turn(10 * MS);
    return c->phase == OPEN;
}

void net_close_all(void)
{
    for (uint32_t i = 0; i < net.started; i++) {
        struct client *c = net.client_at(i);
        if (c->phase == LOST || c->phase == UNUSED)
            continue;
        say_goodbye(c);
        c->phase = LOST;
    }
    net.open = 0;
}

/* --- reading --------------------------------------------------------------------------------------------------- */

/* Handles the whole packets in [buffer, buffer + length); the bytes that they took. */
static uint32_t take_packets(struct client *c, const uint8_t *buffer, uint32_t length)
{
    uint32_t at = 0;
    while (c->phase != LOST && length - at >= 2) {
        uint32_t remaining;
        int taken = get_varint(buffer + at + 1, length - at - 1, &remaining);
        if (taken < 0) {
            lose(c, "malformed length");
            break;
        }
        uint32_t start = at + 1 + (uint32_t)taken;
        if (taken == 0 || length - start < remaining)
            break;
        if (c->phase == OPEN)
            net.workload->packet(c, buffer[at], buffer + start, remaining);
        else
            on_connack(c, buffer[at], buffer + start, remaining);
        at = start + remaining;
    }
    return at;
}

static void on_readable(struct client *c)
{
    uint32_t have = c->stash_length;
    if (have)
        memcpy(read_buffer, c->stash, have);
    ssize_t n = recv(c->fd, read_buffer + have, read_room - have, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        lose(c, n ? strerror(errno) : "closed by the broker");
        return;
    }
    net.read_at = now_ns();
    uint32_t length = have + (uint32_t)n, taken = take_packets(c, read_buffer, length), left = length - taken;
    if (c->phase == LOST)
        return;
    if (left == read_room)
        die("the broker sent a packet that is larger than any that was published");
    if (left > c->stash_room)
        c->stash = must_realloc(c->stash, c->stash_room = left);
    if (left)
        memcpy(c->stash, read_buffer + taken, left);
    c->stash_length = left;
    if (c->out_length && !c->wants_write)
        net_flush(c);
}

int net_turn(uint64_t timeout_ns)
{
    static struct epoll_event events[512];
    struct timespec timeout = {(time_t)(timeout_ns / SECOND), (long)(timeout_ns % SECOND)};
    int n = epoll_pwait2(net.epoll, events, 512, &timeout, NULL);
    if (n < 0 && errno != EINTR)
        die("epoll_pwait2: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;
        if (c->phase == LOST)
            continue;
        if (events[i].events & EPOLLOUT && c->phase == CONNECTING)
            finish_connect(c);
        else if (events[i].events & EPOLLOUT)
            net_flush(c);
        if (c->phase != LOST && c->phase != CONNECTING && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
            on_readable(c);
        else if (c->phase == CONNECTING && events[i].events & (EPOLLERR | EPOLLHUP))
            finish_connect(c);
    }
    return n < 0 ? 0 : n;
}
