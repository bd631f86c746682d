/*
 * The ZC half. A cluster is a file in the fake's folder that every process maps, so that packets really go from
 * one process to another. Each buffer counts who has it; each process knows which buffers it holds.
 */
#include "record.h"

#include "pfring_zc_subset.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BUFFERS 8192
#define QUEUES 64
#define SLOTS 8192
#define BURST 16
/* Receive buffers that the library keeps for a device. */
#define PER_DEVICE 32768

struct ring {
    volatile uint32_t head, tail, length, reader;
    volatile uint64_t sent, drop, recv;
    volatile uint32_t entries[SLOTS];
};

struct shared {
    volatile uint32_t ready, queues, buffer_len, total, spent, stride;
    struct ring ring[QUEUES];
    volatile uint32_t pool[QUEUES], pool_reader[QUEUES];
    volatile uint32_t refs[BUFFERS];
    /* Handles as the caller sees them; packets lie elsewhere. */
    pfring_zc_pkt_buff handle[BUFFERS][1];
    unsigned char data[];
};

static struct {
    uint32_t id;
    struct shared *shared;
    /* Queues and pools that this process is attached to, and the cluster itself when it made it. */
    int attached;
    /* How often this process holds the buffer: a packet of several queues may come to it more than once. */
    unsigned char held[BUFFERS];
} maps[4];

#define MAP_SIZE (sizeof(struct shared) + (size_t)BUFFERS * 2048)

static int map_of(uint32_t cluster, int create) {
    char name[32];
    for (int i = 0; i < 4; i++)
        if (maps[i].shared && maps[i].id == cluster)
            return i;
    snprintf(name, sizeof name, "cluster-%u", cluster);
    if (create)
        unlink(file_of(name));
    int fd = open(file_of(name), create ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0600);
    if (fd < 0 || (create && ftruncate(fd, MAP_SIZE) != 0)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    void *memory = mmap(NULL, MAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    for (int i = 0; memory != MAP_FAILED && i < 4; i++)
        if (maps[i].shared == NULL) {
            maps[i].id = cluster;
            maps[i].shared = memory;
            maps[i].attached = create;
            memset(maps[i].held, 0, BUFFERS);
            return i;
        }
    return -1;
}

static void unmap(uint32_t cluster) {
    int m = map_of(cluster, 0);
    if (m >= 0) {
        munmap(maps[m].shared, MAP_SIZE);
        maps[m].shared = NULL;
    }
}

/* An empty buffer for this process. */
static int take(int m) {
    for (uint32_t b = 0; b < BUFFERS; b++)
        if (maps[m].shared->refs[b] == 0 && __sync_bool_compare_and_swap(&maps[m].shared->refs[b], 0, 1)) {
            maps[m].held[b]++;
            return (int)b;
        }
    return -1;
}

static void drop(int m, uint32_t b) {
    maps[m].held[b]--;
    __sync_fetch_and_sub(&maps[m].shared->refs[b], 1);
}

static unsigned char *data_of(int m, uint32_t b) { return maps[m].shared->data + (size_t)b * 2048; }

/* Which buffer of the cluster this handle is, held by this process; -1 with a violation otherwise. */
static int buffer_of(const char *function, int m, pfring_zc_pkt_buff *handle) {
    ptrdiff_t b = m < 0 ? -1 : ((char *)handle - (char *)maps[m].shared->handle) / (ptrdiff_t)sizeof *handle;
    if (b < 0 || b >= BUFFERS || handle != maps[m].shared->handle[b])
        violation("%s: not a buffer of the cluster", function);
    else if (!maps[m].held[b])
        violation("%s: buffer %d is not held by the caller", function, (int)b);
    else
        return (int)b;
    return -1;
}

char *pfring_zc_version(void) {
    ONE_AT_A_TIME;
    char *version = getenv("PFRING_FAKE_VERSION");
    return version ? version : "8.9.0.241017";
}

pfring_zc_cluster *pfring_zc_create_cluster(uint32_t id, uint32_t buffer_len, uint32_t metadata_len, uint32_t total,
                                            int32_t node, const char *mountpoint, uint32_t flags) {
    ONE_AT_A_TIME;
    int code = planned("pfring_zc_create_cluster");
    journal("create_cluster %u %u %u %u %d %s %u = %d", id, buffer_len, metadata_len, total, node,
            mountpoint ? mountpoint : "-", flags, code);
    if (code) {
        fail(code);
        return NULL;
    }
    int m = map_of(id, 1);
    if (m < 0)
        return NULL;
    maps[m].shared->buffer_len = buffer_len;
    maps[m].shared->total = total;
    struct object *object = make(CLUSTER, "%u", id);
    object->cluster = id;
    return object;
}

/* Charges the cluster; what it was sized for must do. */
static void spend(const char *function, int m, uint32_t buffers) {
    struct shared *s = maps[m].shared;
    s->spent += buffers;
    if (s->spent > s->total)
        violation("%s: the cluster has %u buffers, and %u are needed", function, s->total, s->spent);
}

/* Objects that end with their cluster. */
static struct object *members[128];
static int member_count;

static struct object *member(struct object *object, uint32_t cluster) {
    object->cluster = cluster;
    members[member_count++ % 128] = object;
    return object;
}

static void forget(uint32_t cluster) {
    for (int i = 0; i < 128 && members[i]; i++)
        if (members[i]->cluster == cluster)
            members[i]->alive = 0;
}

void pfring_zc_destroy_cluster(pfring_zc_cluster *cluster) {
    ONE_AT_A_TIME;
    struct object *object = object_of("destroy_cluster", cluster, CLUSTER, CLUSTER);
    if (object == NULL)
        return;
    journal("destroy_cluster %s", object->name);
    int m = map_of(object->cluster, 0), held = 0;
    for (int b = 0; b < BUFFERS; b++)
        held += maps[m].held[b];
    if (held > 0)
        violation("destroy_cluster %s: %d buffers are still held", object->name, held);
    maps[m].shared->ready = 0;
    forget(object->cluster);
    object->alive = 0;
    char name[32];
    snprintf(name, sizeof name, "cluster-%u", object->cluster);
    unlink(file_of(name));
    unmap(object->cluster);
}

pfring_zc_queue *pfring_zc_open_device(pfring_zc_cluster *cluster, const char *name, pfring_zc_queue_mode mode,
                                       uint32_t flags) {
    ONE_AT_A_TIME;
    struct object *owner = object_of("open_device", cluster, CLUSTER, CLUSTER);
    int code = planned("pfring_zc_open_device");
    if (owner == NULL)
        return NULL;
    journal("open_device %s %s %d %u = %d", owner->name, name, (int)mode, flags, code);
    if (code) {
        fail(code);
        return NULL;
    }
    spend("open_device", map_of(owner->cluster, 0), PER_DEVICE);
    return member(make(DEVICE, "%s", name), owner->cluster);
}

int pfring_zc_create_queue_pool_pair(pfring_zc_cluster *cluster, uint32_t queue_len, uint32_t pool_len,
                                     pfring_zc_queue **queue, pfring_zc_buffer_pool **pool) {
    ONE_AT_A_TIME;
    struct object *owner = object_of("create_queue_pool_pair", cluster, CLUSTER, CLUSTER);
    int code = planned("pfring_zc_create_queue_pool_pair");
    if (owner == NULL)
        return -1;
    struct shared *s = maps[map_of(owner->cluster, 0)].shared;
    uint32_t id = s->queues;
    journal("create_queue_pool_pair %s %u %u = %d", owner->name, queue_len, pool_len, code ? code : (int)id);
    if (code)
        return fail(code);
    if (queue_len & (queue_len - 1) || pool_len & (pool_len - 1))
        violation("create_queue_pool_pair: %u and %u are no powers of two", queue_len, pool_len);
    spend("create_queue_pool_pair", map_of(owner->cluster, 0), queue_len + pool_len);
    s->ring[id].length = queue_len < SLOTS ? queue_len : SLOTS;
    s->pool[id] = pool_len;
    s->queues = id + 1;
    struct object *made = member(make(QUEUE, "%u@%u", owner->cluster, id), owner->cluster);
    made->id = id;
    *queue = made;
    made = member(make(POOL, "%u@%u", owner->cluster, id), owner->cluster);
    made->id = id;
    *pool = made;
    return 0;
}

pfring_zc_buffer_pool *pfring_zc_create_buffer_pool(pfring_zc_cluster *cluster, uint32_t pool_len) {
    ONE_AT_A_TIME;
    struct object *owner = object_of("create_buffer_pool", cluster, CLUSTER, CLUSTER);
    int code = planned("pfring_zc_create_buffer_pool");
    if (owner == NULL)
        return NULL;
    journal("create_buffer_pool %s %u = %d", owner->name, pool_len, code);
    if (code) {
        fail(code);
        return NULL;
    }
    spend("create_buffer_pool", map_of(owner->cluster, 0), pool_len);
    struct object *made = member(make(WORKING_POOL, "%s working", owner->name), owner->cluster);
    made->length = pool_len;
    /* The producer makes it last: until then nobody can attach. */
    maps[map_of(owner->cluster, 0)].shared->ready = 1;
    return made;
}

pfring_zc_multi_queue *pfring_zc_create_multi_queue(pfring_zc_queue *queues[], uint32_t count) {
    ONE_AT_A_TIME;
    int code = planned("pfring_zc_create_multi_queue");
    journal("create_multi_queue %u = %d", count, code);
    if (code || count == 0 || count > QUEUES) {
        fail(code ? code : EINVAL);
        return NULL;
    }
    struct object *made = make(MULTI_QUEUE, "multi");
    for (uint32_t i = 0; i < count; i++)
        if ((made->members[i] = object_of("create_multi_queue", queues[i], QUEUE, QUEUE)) == NULL)
            return NULL;
    made->count = count;
    return member(made, made->members[0]->cluster);
}

uint32_t pfring_zc_get_queue_id(pfring_zc_queue *queue) {
    ONE_AT_A_TIME;
    struct object *object = object_of("get_queue_id", queue, QUEUE, QUEUE);
    return object ? object->id : UINT32_MAX;
}

int pfring_zc_set_proc_stats(pfring_zc_cluster *cluster, char *stats) {
    ONE_AT_A_TIME;
    struct object *object = object_of("set_proc_stats", cluster, CLUSTER, CLUSTER);
    if (object == NULL)
        return -1;
    if (strlen(stats) > 1023)
        violation("set_proc_stats: %zu bytes", strlen(stats));
    FILE *file = fopen(file_of("stats"), "w");
    if (file) {
        fputs(stats, file);
        fclose(file);
    }
    return 0;
}

static int enqueue(struct shared *s, uint32_t queue, uint32_t b) {
    struct ring *ring = &s->ring[queue];
    if (ring->head - ring->tail >= ring->length) {
        ring->drop++;
        return 0;
    }
    ring->entries[ring->head % SLOTS] = b;
    ring->sent++;
    __sync_synchronize();
    ring->head++;
    return 1;
}

int pfring_zc_send_pkt(pfring_zc_queue *queue, pfring_zc_pkt_buff **handle, uint8_t flush) {
    ONE_AT_A_TIME;
    struct object *object = object_of("send_pkt", queue, QUEUE, QUEUE);
    if (object == NULL || object->attached)
        return -1;
    int m = map_of(object->cluster, 0), b = buffer_of("send_pkt", m, *handle);
    if (b < 0)
        return -1;
    int length = (*handle)->len, fresh = take(m), sent = fresh >= 0 && enqueue(maps[m].shared, object->id, (uint32_t)b);
    journal("send_pkt %s %d %u = %d", object->name, length, flush, sent ? length : -1);
    if (!sent) {
        if (fresh >= 0)
            drop(m, (uint32_t)fresh);
        return -1;
    }
    maps[m].held[b]--;
    *handle = maps[m].shared->handle[fresh];
    return length;
}

int pfring_zc_send_pkt_multi(pfring_zc_multi_queue *multi, pfring_zc_pkt_buff **handle, uint64_t mask, uint8_t flush) {
    ONE_AT_A_TIME;
    struct object *object = object_of("send_pkt_multi", multi, MULTI_QUEUE, MULTI_QUEUE);
    if (object == NULL)
        return -1;
    int m = map_of(object->cluster, 0), b = buffer_of("send_pkt_multi", m, *handle);
    if (b < 0)
        return -1;
    if (object->count < 64 && mask >> object->count)
        violation("send_pkt_multi: %u queues, mask %#lx", object->count, (unsigned long)mask);
    int length = (*handle)->len, copies = 0, fresh = take(m);
    for (uint32_t q = 0; fresh >= 0 && q < object->count; q++)
        if (mask >> q & 1) {
            __sync_fetch_and_add(&maps[m].shared->refs[b], 1);
            if (enqueue(maps[m].shared, object->members[q]->id, (uint32_t)b))
                copies++;
            else
                __sync_fetch_and_sub(&maps[m].shared->refs[b], 1);
        }
    journal("send_pkt_multi %d %#lx %u = %d", length, (unsigned long)mask, flush, copies);
    if (copies > 0) {
        drop(m, (uint32_t)b);
        *handle = maps[m].shared->handle[fresh];
    } else if (fresh >= 0) {
        drop(m, (uint32_t)fresh);
    }
    return copies;
}

/* Another process's queue or pool, which exists once its cluster is whole. */
static struct object *attach(const char *what, enum kind kind, uint32_t cluster, uint32_t id, int code) {
    int m = code ? -1 : map_of(cluster, 0);
    if (!code && (m < 0 || !maps[m].shared->ready || id >= maps[m].shared->queues))
        code = EINVAL;
    volatile uint32_t *reader = NULL;
    if (!code) {
        reader = kind == QUEUE ? &maps[m].shared->ring[id].reader : &maps[m].shared->pool_reader[id];
        if (*reader)
            code = EBUSY;
    }
    journal("%s %u %u = %d", what, cluster, id, code);
    if (code) {
        if (m >= 0 && maps[m].attached == 0)
            unmap(cluster);
        fail(code);
        return NULL;
    }
    *reader = (uint32_t)getpid();
    maps[m].attached++;
    struct object *object = make(kind, "%u@%u", cluster, id);
    object->cluster = cluster;
    object->id = id;
    object->attached = 1;
    return object;
}

pfring_zc_queue *pfring_zc_ipc_attach_queue(uint32_t cluster, uint32_t queue, pfring_zc_queue_mode mode) {
    ONE_AT_A_TIME;
    if (mode != rx_only)
        violation("ipc_attach_queue %u %u: mode %d", cluster, queue, (int)mode);
    return attach("ipc_attach_queue", QUEUE, cluster, queue, planned("pfring_zc_ipc_attach_queue"));
}

pfring_zc_buffer_pool *pfring_zc_ipc_attach_buffer_pool(uint32_t cluster, uint32_t pool) {
    ONE_AT_A_TIME;
    return attach("ipc_attach_buffer_pool", POOL, cluster, pool, planned("pfring_zc_ipc_attach_buffer_pool"));
}

/* One attachment less. A cluster that comes back has another file, so the last one unmaps. */
static void leave(int m) {
    if (--maps[m].attached == 0)
        unmap(maps[m].id);
}

void pfring_zc_ipc_detach_queue(pfring_zc_queue *queue) {
    ONE_AT_A_TIME;
    struct object *object = object_of("ipc_detach_queue", queue, QUEUE, QUEUE);
    if (object == NULL)
        return;
    journal("ipc_detach_queue %s", object->name);
    int m = map_of(object->cluster, 0);
    if (!object->attached) {
        violation("ipc_detach_queue %s: it was never attached", object->name);
        return;
    }
    maps[m].shared->ring[object->id].reader = 0;
    object->alive = 0;
    leave(m);
}

void pfring_zc_ipc_detach_buffer_pool(pfring_zc_buffer_pool *pool) {
    ONE_AT_A_TIME;
    struct object *object = object_of("ipc_detach_buffer_pool", pool, POOL, POOL);
    if (object == NULL)
        return;
    journal("ipc_detach_buffer_pool %s", object->name);
    if (object->taken > 0)
        violation("ipc_detach_buffer_pool %s: %u buffers were not released", object->name, object->taken);
    if (!object->attached) {
        violation("ipc_detach_buffer_pool %s: it was never attached", object->name);
        return;
    }
    int m = map_of(object->cluster, 0);
    maps[m].shared->pool_reader[object->id] = 0;
    object->alive = 0;
    leave(m);
}

pfring_zc_pkt_buff *pfring_zc_get_packet_handle_from_pool(pfring_zc_buffer_pool *pool) {
    ONE_AT_A_TIME;
    struct object *object = object_of("get_packet_handle_from_pool", pool, POOL, WORKING_POOL);
    if (object == NULL)
        return NULL;
    int m = map_of(object->cluster, 0), code = planned("pfring_zc_get_packet_handle_from_pool");
    uint32_t length = object->kind == POOL ? maps[m].shared->pool[object->id] : object->length;
    int b = code || object->taken == length ? -1 : take(m);
    journal("get_packet_handle_from_pool %s = %s", object->name, b < 0 ? "NULL" : "1");
    if (b < 0)
        return NULL;
    object->taken++;
    return maps[m].shared->handle[b];
}

void pfring_zc_release_packet_handle_to_pool(pfring_zc_buffer_pool *pool, pfring_zc_pkt_buff *handle) {
    ONE_AT_A_TIME;
    struct object *object = object_of("release_packet_handle_to_pool", pool, POOL, WORKING_POOL);
    if (object == NULL)
        return;
    int m = map_of(object->cluster, 0), b = buffer_of("release_packet_handle_to_pool", m, handle);
    journal("release_packet_handle_to_pool %s", object->name);
    if (b < 0)
        return;
    if (object->taken == 0)
        violation("release_packet_handle_to_pool %s: more than were taken", object->name);
    else
        object->taken--;
    drop(m, (uint32_t)b);
}

unsigned char *pfring_zc_pkt_buff_data(pfring_zc_pkt_buff *handle, pfring_zc_queue *queue) {
    ONE_AT_A_TIME;
    static unsigned char nothing[2048];
    struct object *object = object_of("pkt_buff_data", queue, QUEUE, DEVICE);
    int m = object ? map_of(object->cluster, 0) : -1, b = m < 0 ? -1 : buffer_of("pkt_buff_data", m, handle);
    return b < 0 ? nothing : data_of(m, (uint32_t)b);
}

/* A packet of the device's file, in this buffer; 0 when there is none. */
static int from_device(struct object *device, int m, uint32_t b) {
    unsigned char record[2 + 2048];
    if (!next_record(device, record, 2))
        return 0;
    int length = record[0] | record[1] << 8;
    if (!next_record(device, record, 2 + length))
        return 0;
    device->offset += 2 + length;
    device->received++;
    memcpy(data_of(m, b), record + 2, (size_t)length);
    *maps[m].shared->handle[b] = (pfring_zc_pkt_buff){.len = (uint16_t)length, .ts = {1700000000, 5}};
    return 1;
}

int pfring_zc_recv_pkt_burst(pfring_zc_queue *queue, pfring_zc_pkt_buff **handles, uint32_t max, uint8_t wait) {
    ONE_AT_A_TIME;
    struct object *object = object_of("recv_pkt_burst", queue, QUEUE, DEVICE);
    if (object == NULL)
        return -1;
    if (max == 0 || max > BURST)
        violation("recv_pkt_burst %s: a burst of %u", object->name, max);
    if (wait)
        violation("recv_pkt_burst %s: it waits, and nobody can end that", object->name);
    int m = map_of(object->cluster, 0), count = 0, code = planned("pfring_zc_recv_pkt_burst");
    for (uint32_t i = 0; !code && i < max; i++) {
        int b = buffer_of("recv_pkt_burst", m, handles[i]), got = -1;
        if (b < 0)
            return -1;
        if (object->kind == DEVICE) {
            got = take(m);
            if (got >= 0 && !from_device(object, m, (uint32_t)got)) {
                drop(m, (uint32_t)got);
                got = -1;
            }
        } else {
            struct ring *ring = &maps[m].shared->ring[object->id];
            if (ring->tail != ring->head) {
                got = (int)ring->entries[ring->tail % SLOTS];
                maps[m].held[got]++;
                ring->tail++;
                ring->recv++;
            }
        }
        if (got < 0)
            break;
        drop(m, (uint32_t)b);
        handles[i] = maps[m].shared->handle[got];
        count++;
    }
    journal("recv_pkt_burst %s %u %u = %d", object->name, max, wait, code ? code : count);
    return code ? fail(code) : count;
}

void pfring_zc_queue_breakloop(pfring_zc_queue *queue) {
    ONE_AT_A_TIME;
    struct object *object = object_of("queue_breakloop", queue, QUEUE, DEVICE);
    if (object)
        journal("queue_breakloop %s", object->name);
}

int pfring_zc_stats(pfring_zc_queue *queue, pfring_zc_stat *stats) {
    ONE_AT_A_TIME;
    struct object *object = object_of("stats", queue, QUEUE, DEVICE);
    int code = planned("pfring_zc_stats");
    if (object == NULL || code)
        return fail(code ? code : EINVAL);
    *stats = (pfring_zc_stat){0};
    if (object->kind == DEVICE) {
        stats->recv = object->received;
    } else {
        struct ring *ring = &maps[map_of(object->cluster, 0)].shared->ring[object->id];
        *stats = (pfring_zc_stat){ring->recv, ring->sent, ring->drop};
    }
    return 0;
}
