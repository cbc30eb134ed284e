/*
 * Clients on one epoll set. This file knows sockets, packet framing and CONNECT; what the packets mean is the
 * workload's business (struct workload). All packets that are due for a client leave in one write.
 */
#ifndef NET_H
#define NET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire.h"

enum phase { UNUSED, CONNECTING, AWAIT_CONNACK, OPEN, LOST };

/* The first member of a workload's own client structures. */
struct client {
    int fd;
    uint32_t id;              /* its client id, the same when it comes again; 0 = none yet */
    enum phase phase;
    bool wants_write;         /* EPOLLOUT is armed: the socket is full */
    uint16_t receive_maximum; /* what the broker takes unacknowledged */
    uint32_t stash_length, stash_room;
    uint32_t out_length, out_sent, out_room;
    uint8_t *stash;           /* the start of a packet that has not arrived whole */
    uint8_t *out;             /* bytes [out_sent, out_length) wait to be written */
};

struct workload {
    void (*opened)(struct client *c);
    void (*packet)(struct client *c, uint8_t head, const uint8_t *body, uint32_t length);
};

struct net {
    int epoll;
    enum version version;
    bool durable; /* sessions outlive their connections */
    uint32_t homes;       /* workers of the broker, which share the clients by a hash of their ids; 0 = one */
    uint32_t subscribers; /* clients [0, subscribers), and then their publishers */
    bool apart;           /* a publisher is at another worker than its subscriber */
    const struct workload *workload;
    struct client *(*client_at)(uint32_t index); /* the workload's clients by number */
    uint32_t clients, started, open, lost;
    uint32_t largest_payload;
    uint64_t read_at; /* the clock after the latest read */
};

extern struct net net;

void net_start(const char *host, uint16_t port);
/* Connects clients [started, clients), some at a time; false when not all are open within the time. */
bool net_connect_all(double timeout_s);
/* Ends a client's connection in order, and opens it again; false when it is not open within the time. */
void net_leave(struct client *c);
bool net_return(struct client *c, double timeout_s);
/* Waits for events at most so long, and handles them; the number of events. */
int net_turn(uint64_t timeout_ns);
/* Room for so many more bytes at the end of the client's output; net_wrote tells where the writing ended. */
uint8_t *net_room(struct client *c, uint32_t bytes);
static inline void net_wrote(struct client *c, const uint8_t *end)
{
    c->out_length = (uint32_t)(end - c->out);
}
void net_flush(struct client *c);
void net_close_all(void);

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
void *must_calloc(size_t count, size_t size);
void *must_realloc(void *old, size_t size);
#endif
