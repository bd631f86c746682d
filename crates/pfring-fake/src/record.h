/* What both halves of the fake have in common: the journal of calls, planned failures, objects. */
#ifndef CONJURE_PFRING_FAKE_RECORD_H
#define CONJURE_PFRING_FAKE_RECORD_H

#include <stdint.h>

/* What a pointer that the fake gave away stands for. */
enum kind { CLUSTER, DEVICE, QUEUE, POOL, WORKING_POOL, MULTI_QUEUE, RING };

struct object {
    enum kind kind;
    int alive;
    /* How the journal calls it. */
    char name[96];
    uint32_t cluster, id;
    /* Attached from another process rather than made here. */
    int attached;
    /* Buffers taken from the pool by this process. */
    uint32_t taken;
    uint32_t length;
    /* Device or ring: where its packets are read. */
    long offset;
    uint64_t received;
    /* Multi-queue: its members. */
    struct object *members[64];
    uint32_t count;
    /* Ring: it captures, it was shut down. */
    int enabled, down;
};

/* Lets no other thread in until the end of the block: workers share the library. */
#define ONE_AT_A_TIME __attribute__((cleanup(let_others_in), unused)) int alone = keep_others_out()
int keep_others_out(void);
void let_others_in(int *alone);
/* Writes a line unless it is the same as the last one. */
void journal(const char *format, ...);
/* The same for something that must not happen. */
void violation(const char *format, ...);
/* What this call shall return instead of what it would: 0 for nothing, else an errno or a negative code. */
int planned(const char *function);
/* Puts an errno from a plan into effect; returns what an int function returns then. */
int fail(int code);
/* Path of a file in the fake's folder. */
const char *file_of(const char *name);
struct object *make(enum kind kind, const char *format, ...);
/* The object behind a pointer, when it is one of these two kinds and alive; a violation otherwise. */
struct object *object_of(const char *function, void *pointer, enum kind one, enum kind other);
/* Reads a record at the object's offset; 0 when there is none yet. */
int next_record(struct object *object, void *into, long size);

#endif
