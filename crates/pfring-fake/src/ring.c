/* The half without ZC. What was captured of a packet ends where a page ends that cannot be read. */
#include "record.h"

#include "pfring_subset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096

static struct object *ring_of(const char *function, pfring *ring) {
    return object_of(function, ring, RING, RING);
}

pfring *pfring_open(const char *device, uint32_t caplen, uint32_t flags) {
    ONE_AT_A_TIME;
    int code = planned("pfring_open");
    journal("pfring_open %s %u %u = %d", device, caplen, flags, code);
    if (code) {
        fail(code);
        return NULL;
    }
    return (pfring *)make(RING, "%s", device);
}

int pfring_version(pfring *ring, uint32_t *version) {
    ONE_AT_A_TIME;
    if (ring_of("pfring_version", ring) == NULL)
        return -1;
    const char *own = getenv("PFRING_FAKE_RING_VERSION");
    *version = own ? (uint32_t)strtoul(own, NULL, 16) : 0x080900;
    return 0;
}

static int set(const char *function, pfring *ring, unsigned one, unsigned two) {
    ONE_AT_A_TIME;
    struct object *object = ring_of(function, ring);
    int code = planned(function);
    if (object == NULL)
        return -1;
    journal("%s %s %u %u = %d", function, object->name, one, two, code);
    if (object->enabled)
        violation("%s %s: it captures already", function, object->name);
    return code ? fail(code) : 0;
}

int pfring_set_cluster(pfring *ring, unsigned int id, cluster_type type) {
    ONE_AT_A_TIME;
    return set("pfring_set_cluster", ring, id, type);
}

int pfring_set_direction(pfring *ring, packet_direction direction) {
    ONE_AT_A_TIME;
    return set("pfring_set_direction", ring, direction, 0);
}

int pfring_set_socket_mode(pfring *ring, socket_mode mode) { return set("pfring_set_socket_mode", ring, mode, 0); }

int pfring_enable_ring(pfring *ring) {
    ONE_AT_A_TIME;
    int code = set("pfring_enable_ring", ring, 0, 0);
    struct object *object = ring_of("pfring_enable_ring", ring);
    if (object)
        object->enabled = code == 0;
    return code;
}

int pfring_recv(pfring *ring, unsigned char **buffer, unsigned int length, struct pfring_pkthdr *header, uint8_t wait) {
    ONE_AT_A_TIME;
    static unsigned char *page;
    struct object *object = ring_of("pfring_recv", ring);
    int code = planned("pfring_recv");
    if (object == NULL)
        return -1;
    if (!object->enabled || object->down)
        violation("pfring_recv %s: it does not capture", object->name);
    if (length != 0 || wait)
        violation("pfring_recv %s: length %u, wait %u", object->name, length, wait);
    if (page == NULL) {
        page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(page + PAGE, PAGE, PROT_NONE);
    }
    unsigned char record[4 + 2048];
    int captured = 0, got = !code && next_record(object, record, 4);
    if (got) {
        captured = record[0] | record[1] << 8;
        got = next_record(object, record, 4 + captured);
    }
    journal("pfring_recv %s = %d", object->name, code ? code : got);
    if (code)
        return fail(code);
    if (!got)
        return 0;
    object->offset += 4 + captured;
    object->received++;
    *buffer = page + PAGE - captured;
    memcpy(*buffer, record + 4, (size_t)captured);
    memset(header, 0, sizeof *header);
    header->caplen = (uint32_t)captured;
    header->len = (uint32_t)(record[2] | record[3] << 8);
    header->ts.tv_sec = 1700000000;
    header->rx_direction = 1;
    return 1;
}

int pfring_stats(pfring *ring, pfring_stat *stats) {
    ONE_AT_A_TIME;
    struct object *object = ring_of("pfring_stats", ring);
    if (object == NULL)
        return -1;
    *stats = (pfring_stat){object->received, 3, 0};
    return 0;
}

void pfring_breakloop(pfring *ring) {
    ONE_AT_A_TIME;
    struct object *object = ring_of("pfring_breakloop", ring);
    if (object)
        journal("pfring_breakloop %s", object->name);
}

void pfring_shutdown(pfring *ring) {
    ONE_AT_A_TIME;
    struct object *object = ring_of("pfring_shutdown", ring);
    if (object == NULL)
        return;
    journal("pfring_shutdown %s", object->name);
    object->down = 1;
}

void pfring_close(pfring *ring) {
    ONE_AT_A_TIME;
    struct object *object = ring_of("pfring_close", ring);
    if (object == NULL)
        return;
    journal("pfring_close %s", object->name);
    object->alive = 0;
}
