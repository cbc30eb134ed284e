#include "options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gauge.h"
#include "net.h"

struct options options = {
    .host = "127.0.0.1", .port = 1883, .version = MQTT_311, .sub_qos = -1, .size = 16, .pubs = 1, .subs = 1,
    .batch = 100, .window = 100, .duration_s = 3, .warmup_s = 0.5, .settle_s = 1, .filters = 100000, .kind = MIX,
    .clients = 1000, .messages = 100000,
};

static const char usage[] =
    "usage: mqtt-load WORKLOAD [--option VALUE]...\n"
    "\n"
    "Loads an MQTT broker from one thread, checks that every message arrives once and in order, and prints one line\n"
    "of JSON. With --pid, the broker's CPU time and memory are in it.\n"
    "\n"
    "workloads\n"
    "  pairs        publisher i to subscriber i (--subs and --pubs the same number)\n"
    "  fanout       one publisher to all subscribers\n"
    "  fanin        all publishers to all subscribers, through a '+' filter\n"
    "  filters      route through a table of --filters, each with a topic of its own, held by --clients\n"
    "  connections  --clients idle connections\n"
    "  retained     store --messages retained messages, then fetch all by one '#' subscription\n"
    "  offline      --messages wait for --subs subscribers that are away, which then come back and fetch them\n"
    "options (defaults)\n"
    "  --host (127.0.0.1) --port (1883) --pid --mqtt 4|5 (4: that is 3.1.1)\n"
    "  --qos (0) --sub-qos (as --qos) --size bytes of payload, at least 16 (16)\n"
    "  --pubs (1) --subs (1)\n"
    "  --batch N    messages in one write at most (100)\n"
    "  --window N   unacknowledged QoS 1/2 messages of a publisher (100)\n"
    "  --flight N   messages of a publisher on their way to subscribers (0: no limit)\n"
    "  --rate N     messages/s of all publishers together, evenly spaced (0: as fast as it goes)\n"
    "  --duration S measured time (3) --warmup S (0.5) --settle S before memory is read (1)\n"
    "  --filters N (100000) --kind exact|plus|hash|mix (mix) --clients N (1000) --messages N (100000)\n"
    "  --subscribe 0|1  connections: with a subscription each (0)\n"
    "  --durable 0|1    sessions that outlive their connections (0)\n"
    "  --homes N        the broker has N workers that share clients by FNV-1a of their ids: pair i is at worker i mod N (0)\n"
    "  --apart 0|1      its publisher is at the next worker (0)\n"
    "  --pings N        pings/s of one more client, whose answers show the broker's pauses (0)\n";

static int keyword(const char *value, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (!strcmp(words[i], value))
            return i;
    die("not one of the words that are possible: %s", value);
}

static double number(const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (!*text || *end || value < least || value > most)
        die("not a number from %g to %g: %s", least, most, text);
    return value;
}

enum name {
    HOST = 1, PORT, PID, MQTT, QOS, SUB_QOS, SIZE, PUBS, SUBS, BATCH, WINDOW, FLIGHT, RATE, DURATION, WARMUP, SETTLE,
    FILTERS, KIND, CLIENTS, SUBSCRIBED, MESSAGES, DURABLE, HOMES, APART, PINGS, HELP
};

static const struct option names[] = {
    {"host", 1, 0, HOST}, {"port", 1, 0, PORT}, {"pid", 1, 0, PID}, {"mqtt", 1, 0, MQTT}, {"qos", 1, 0, QOS},
    {"sub-qos", 1, 0, SUB_QOS}, {"size", 1, 0, SIZE}, {"pubs", 1, 0, PUBS}, {"subs", 1, 0, SUBS},
    {"batch", 1, 0, BATCH}, {"window", 1, 0, WINDOW}, {"flight", 1, 0, FLIGHT}, {"rate", 1, 0, RATE},
    {"duration", 1, 0, DURATION}, {"warmup", 1, 0, WARMUP}, {"settle", 1, 0, SETTLE}, {"filters", 1, 0, FILTERS},
    {"kind", 1, 0, KIND}, {"clients", 1, 0, CLIENTS}, {"subscribe", 1, 0, SUBSCRIBED}, {"messages", 1, 0, MESSAGES},
    {"durable", 1, 0, DURABLE}, {"homes", 1, 0, HOMES},
    {"apart", 1, 0, APART}, {"pings", 1, 0, PINGS}, {"help", 0, 0, HELP}, {0, 0, 0, 0},
};

static void set(enum name name, const char *v)
{
    static const char *const kinds[] = {"exact", "plus", "hash", "mix", NULL};
    struct options *o = &options;
    switch (name) {
    case HOST: o->host = v; break;
    case PORT: o->port = (uint16_t)number(v, 1, 65535); break;
    case PID: o->pid = (int)number(v, 0, 1 << 30); break;
    case MQTT: o->version = (int)number(v, MQTT_311, MQTT_5); break;
    case QOS: o->qos = (int)number(v, 0, 2); break;
    case SUB_QOS: o->sub_qos = (int)number(v, 0, 2); break;
    case SIZE: o->size = (uint32_t)number(v, 16, 16 << 20); break;
    case PUBS: o->pubs = (uint32_t)number(v, 1, 1e6); break;
    case SUBS: o->subs = (uint32_t)number(v, 1, 1e6); break;
    case BATCH: o->batch = (uint32_t)number(v, 1, 1e6); break;
    case WINDOW: o->window = (uint32_t)number(v, 1, 65535); break;
    case FLIGHT: o->flight = (uint32_t)number(v, 0, 1e9); break;
    case RATE: o->rate = number(v, 0, 1e9); break;
    case DURATION: o->duration_s = number(v, 0.01, 1e5); break;
    case WARMUP: o->warmup_s = number(v, 0, 1e5); break;
    case SETTLE: o->settle_s = number(v, 0, 1e5); break;
    case FILTERS: o->filters = (uint32_t)number(v, 1, 1e8); break;
    case KIND: o->kind = (enum kind)keyword(v, kinds); break;
    case CLIENTS: o->clients = (uint32_t)number(v, 1, 1e6); break;
    case SUBSCRIBED: o->subscribe = number(v, 0, 1) > 0; break;
    case DURABLE: o->durable = number(v, 0, 1) > 0; break;
    case HOMES: net.homes = (uint32_t)number(v, 0, 64); break;
    case APART: net.apart = number(v, 0, 1) > 0; break;
    case PINGS: o->pings = number(v, 0, 1e5); break;
    case MESSAGES: o->messages = (uint32_t)number(v, 1, 1e8); break;
    case HELP: fputs(usage, stdout); exit(0);
    }
}

void read_options(int argc, char **argv)
{
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (name == '?')
            exit(2);
        set((enum name)name, optarg);
    }
    if (argc - optind != 1) {
        fputs(usage, stderr);
        exit(2);
    }
    options.workload = argv[optind];
    if (options.sub_qos < 0)
        options.sub_qos = options.qos;
    net.version = (enum version)options.version;
    net.durable = options.durable;
    net.subscribers = options.subs;
    net.largest_payload = options.size;
}
