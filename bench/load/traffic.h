/* Messages that flow: the packets of publishers and subscribers, and the run (warm-up, measured time, drain). */
#ifndef TRAFFIC_H
#define TRAFFIC_H
#include <stdbool.h>

#include "gauge.h"
#include "publisher.h"

struct traffic {
    struct publisher *publishers;
    /* A valid message for subscriber c; set by the workload. False when it is not one of its own. */
    bool (*on_message)(struct client *c, const struct stamp *stamp);
    void (*on_suback)(struct client *c);
    uint64_t received; /* messages, duplicates included */
    uint64_t bad;      /* packets that no correct broker sends */
    uint64_t subacks, refused, pongs;
    struct usage before, after;
    uint64_t measured_from, measured_to; /* latencies count for what was sent in between */
    struct histogram latency;
    bool stalled;
    struct client pinger;
    struct histogram pings; /* from PINGREQ to PINGRESP, of the whole run */
};

extern struct traffic traffic;

/* The books of the whole run, filled by the workload. */
struct account {
    uint64_t expected, received, duplicate, late;
};

void traffic_packet(struct client *c, uint8_t head, const uint8_t *body, uint32_t length);
void subscribe_to(struct client *c, uint16_t packet_id, const char *filter);
/* Says why on the error output; false, for the workload to return. */
bool setup_failed(const char *why);
/* Handles events, and pings when it is time; whether there was anything but answers to pings. */
bool traffic_turn(uint64_t timeout_ns);
/* Turns until the condition holds; false after so long without any packet. */
bool wait_until(bool (*done)(void), double patience_s);
/* Publishes for the time of the options, then waits for what is on its way: copies_due says how much that is. */
void traffic_run(uint64_t (*copies_due)(void));
void traffic_report(const struct account *a);
void report_books(const struct account *a);
void report_pings(void);
uint64_t unacknowledged(void);
#endif
