/* The workloads; each prints its figures and returns whether it could be carried out. */
#ifndef WORKLOADS_H
#define WORKLOADS_H
#include <stdbool.h>

enum pattern { PAIRS, FANOUT, FANIN };

bool run_pattern(enum pattern pattern);
bool run_filters(void);
bool run_connections(void);
bool run_retained(void);
bool run_offline(void);
#endif
