#include "wire.h"

#include <string.h>

int get_varint(const uint8_t *p, size_t available, uint32_t *out)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        if ((size_t)i == available)
            return 0;
        value |= (uint32_t)(p[i] & 0x7f) << (7 * i);
        if (!(p[i] & 0x80)) {
            *out = value;
            return i + 1;
        }
    }
    return -1;
}

uint8_t *put_varint(uint8_t *p, uint32_t v)
{
    for (; v > 0x7f; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

uint8_t *put_text(uint8_t *p, const char *text, size_t length)
{
    p = put_u16(p, (uint32_t)length);
    memcpy(p, text, length);
    return p + length;
}

uint8_t *put_connect(uint8_t *p, enum version version, const char *client_id, uint16_t keep_alive_s, bool durable)
{
    size_t id_length = strlen(client_id);
    size_t properties = version != MQTT_5 ? 0 : durable ? 6 : 1;
    *p++ = CONNECT << 4;
    p = put_varint(p, (uint32_t)(10 + properties + 2 + id_length));
    p = put_text(p, "MQTT", 4);
    *p++ = (uint8_t)version;
    *p++ = durable ? 0 : 0x02; /* clean session, clean start */
    p = put_u16(p, keep_alive_s);
    if (version == MQTT_5)
        *p++ = durable ? 5 : 0;
    if (version == MQTT_5 && durable) {
        static const uint8_t an_hour[5] = {0x11, 0, 0, 0x0e, 0x10}; /* Session Expiry Interval */
        memcpy(p, an_hour, sizeof an_hour);
        p += sizeof an_hour;
    }
    return put_text(p, client_id, id_length);
}

uint8_t *put_subscribe(uint8_t *p, enum version version, uint16_t packet_id, const uint8_t *body, size_t length)
{
    *p++ = SUBSCRIBE << 4 | 2; /* [MQTT-3.8.1-1] */
    p = put_varint(p, (uint32_t)(2 + (version == MQTT_5) + length));
    p = put_u16(p, packet_id);
    if (version == MQTT_5)
        *p++ = 0;
    memcpy(p, body, length);
    return p + length;
}

uint8_t *put_publish(uint8_t *p, enum version version, int qos, int retain, const char *topic, size_t topic_length,
                     uint16_t packet_id, uint32_t payload_length)
{
    *p++ = (uint8_t)(PUBLISH << 4 | qos << 1 | retain);
    p = put_varint(p, (uint32_t)(2 + topic_length + (qos ? 2 : 0) + (version == MQTT_5) + payload_length));
    p = put_text(p, topic, topic_length);
    if (qos)
        p = put_u16(p, packet_id);
    if (version == MQTT_5)
        *p++ = 0;
    return p;
}

int get_publish(enum version version, uint8_t head, const uint8_t *body, uint32_t length, struct publish *out)
{
    out->qos = head >> 1 & 3;
    out->packet_id = 0;
    if (length < 2)
        return -1;
    uint32_t at = 2u + get_u16(body);
    if (out->qos) {
        if (at + 2 > length)
            return -1;
        out->packet_id = get_u16(body + at);
        at += 2;
    }
    if (version == MQTT_5) {
        uint32_t properties = 0;
        int taken = at < length ? get_varint(body + at, length - at, &properties) : -1;
        if (taken <= 0)
            return -1;
        at += (uint32_t)taken + properties;
    }
    if (at > length)
        return -1;
    out->payload = body + at;
    out->payload_length = length - at;
    return 0;
}

/* The bytes of one property's value in a CONNACK after its identifier; -1 when it cannot stand there. */
static int property_size(uint8_t id, const uint8_t *p, uint32_t available)
{
    switch (id) {
    case 0x11: case 0x27: return 4;
    case 0x13: case 0x21: case 0x22: return 2;
    case 0x24: case 0x25: case 0x28: case 0x29: case 0x2a: return 1;
    case 0x12: case 0x15: case 0x16: case 0x1a: case 0x1c: case 0x1f:
        return available < 2 ? -1 : 2 + get_u16(p);
    case 0x26: {
        if (available < 2)
            return -1;
        uint32_t name = 2u + get_u16(p);
        return available < name + 2 ? -1 : (int)(name + 2 + get_u16(p + name));
    }
    default: return -1;
    }
}

uint16_t get_receive_maximum(const uint8_t *body, uint32_t length)
{
    uint32_t properties = 0;
    int taken = length > 2 ? get_varint(body + 2, length - 2, &properties) : 0;
    if (taken <= 0 || 2u + (uint32_t)taken + properties > length)
        return UINT16_MAX;
    const uint8_t *p = body + 2 + taken, *end = p + properties;
    while (p < end) {
        uint8_t id = *p++;
        int size = property_size(id, p, (uint32_t)(end - p));
        if (size < 0 || size > end - p)
            break;
        if (id == 0x21)
            return get_u16(p);
        p += size;
    }
    return UINT16_MAX;
}
