/* What the command line says. */
#ifndef OPTIONS_H
#define OPTIONS_H
#include <stdbool.h>
#include <stdint.h>

enum kind { EXACT, PLUS, HASH, MIX };

struct options {
    const char *workload;
    const char *host;
    uint16_t port;
    int pid;
    int version;
    int qos, sub_qos;
    uint32_t size;
    uint32_t pubs, subs;
    uint32_t batch;    /* messages in one write at most */
    uint32_t window;   /* unacknowledged QoS 1/2 messages of a publisher */
    uint32_t flight;   /* messages of a publisher that are not delivered yet; 0 = no limit */
    double rate;       /* messages/s of all publishers; 0 = as fast as it goes */
    double duration_s, warmup_s, settle_s;
    uint32_t filters;
    enum kind kind;
    uint32_t clients;
    bool subscribe;
    bool durable;
    double pings;      /* pings/s of one more client; 0 = none */
    uint32_t messages;
};

extern struct options options;

void read_options(int argc, char **argv);
#endif
