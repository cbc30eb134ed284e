/* A client that publishes: pacing, windows, acknowledgements. */
#ifndef PUBLISHER_H
#define PUBLISHER_H
#include "net.h"

/* The start of every payload; the rest of it is filler. */
struct stamp {
    uint32_t publisher, number;
    uint64_t sent_ns;
};

struct publisher {
    struct client link;
    uint32_t index;
    uint32_t copies;        /* subscribers that each message goes to */
    uint32_t limit;         /* messages to publish; 0 = no limit */
    bool retain;
    bool held;              /* it waited for the broker since it was last on time */
    uint32_t sent, acknowledged, in_flight;
    uint64_t delivered;     /* copies seen by subscribers */
    uint64_t started_ns;    /* paced: when the first message was due */
    uint16_t last_id;
    uint8_t *awaits;        /* by packet id: the acknowledgement that is due, 0 = the id is free */
    const uint8_t *topics;  /* the topic of a publisher with only one */
    uint32_t topic_length;
    /* Where each message has a topic of its own: writes it, returns its length. */
    uint32_t (*topic_of)(struct publisher *p, char *out);
};

void publisher_init(struct publisher *p, uint32_t index, const char *topic, uint32_t copies);
/* Publishes what is due and allowed; true when more could go at once. Lowers *due to the next time it wants a turn. */
bool publisher_turn(struct publisher *p, uint64_t now, uint64_t *due);
/* PUBACK, PUBREC and PUBCOMP; false when the broker acknowledged what was not sent. */
bool publisher_acknowledged(struct publisher *p, enum packet_type type, uint16_t packet_id);
#endif
