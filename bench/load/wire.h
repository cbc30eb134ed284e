/* MQTT packets as bytes. Every put_* writes at p and returns the place after what it wrote. */
#ifndef WIRE_H
#define WIRE_H
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

enum packet_type {
    CONNECT = 1, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE, SUBACK,
    UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH
};

enum version { MQTT_311 = 4, MQTT_5 = 5 };

/* The most bytes that a PUBLISH needs besides topic and payload: type, length, topic length, id, no properties. */
#define PUBLISH_OVERHEAD 10

static inline uint16_t get_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint8_t *put_u16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
    return p + 2;
}

/* The bytes that the varint takes; 0 when it is not all there, -1 when it is malformed. */
int get_varint(const uint8_t *p, size_t available, uint32_t *out);
uint8_t *put_varint(uint8_t *p, uint32_t v);
uint8_t *put_text(uint8_t *p, const char *text, size_t length);

uint8_t *put_connect(uint8_t *p, enum version version, const char *client_id, uint16_t keep_alive_s,
                     bool durable);
/* One SUBSCRIBE for filters that are already written as (length, text, options) into body. */
uint8_t *put_subscribe(uint8_t *p, enum version version, uint16_t packet_id, const uint8_t *body, size_t length);
/* Everything of a PUBLISH up to its payload. */
uint8_t *put_publish(uint8_t *p, enum version version, int qos, int retain, const char *topic, size_t topic_length,
                     uint16_t packet_id, uint32_t payload_length);

static inline uint8_t *put_ack(uint8_t *p, enum packet_type type, uint16_t packet_id)
{
    p[0] = (uint8_t)(type << 4 | (type == PUBREL ? 2 : 0)); /* [MQTT-3.6.1-1] */
    p[1] = 2;
    return put_u16(p + 2, packet_id);
}

/* What a received PUBLISH says about itself. */
struct publish {
    int qos;
    uint16_t packet_id;
    const uint8_t *payload; /* borrowed from the read buffer */
    uint32_t payload_length;
};

/* 0, or -1 when the bytes are no PUBLISH. */
int get_publish(enum version version, uint8_t head, const uint8_t *body, uint32_t length, struct publish *out);

/* The Receive Maximum of a CONNACK; 65535 when it names none. */
uint16_t get_receive_maximum(const uint8_t *body, uint32_t length);
#endif
