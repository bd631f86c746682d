#include "record.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char *program_invocation_short_name;

static struct object objects[256];
static int object_count;

static pthread_mutex_t calls = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

int keep_others_out(void) { return pthread_mutex_lock(&calls); }

void let_others_in(int *alone) {
    (void)alone;
    pthread_mutex_unlock(&calls);
}

const char *file_of(const char *name) {
    static char path[2][4096];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", getenv("PFRING_FAKE"), name);
    return path[turn];
}

static void line(const char *text) {
    static char last[1024];
    static FILE *out;
    if (out == NULL) {
        const char *own = getenv("PFRING_FAKE_NAME");
        char name[256];
        snprintf(name, sizeof name, "log-%s", own ? own : program_invocation_short_name);
        out = fopen(file_of(name), "a");
        if (out == NULL) {
            fprintf(stderr, "PFRING_FAKE must name a folder that can be written to\n");
            abort();
        }
    }
    if (strcmp(last, text) != 0) {
        snprintf(last, sizeof last, "%s", text);
        fprintf(out, "%s\n", text);
        fflush(out);
    }
}

void journal(const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    line(text);
}

void violation(const char *format, ...) {
    char text[1024] = "VIOLATION ";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + strlen(text), sizeof text - strlen(text), format, arguments);
    va_end(arguments);
    line(text);
}

/* PFRING_FAKE_FAIL is a list of FUNCTION=CODE or FUNCTION@N=CODE, for each call or for the Nth. */
int planned(const char *function) {
    static struct {
        char name[64];
        int calls;
    } known[64];
    int k = 0;
    while (k < 63 && known[k].name[0] && strcmp(known[k].name, function) != 0)
        k++;
    snprintf(known[k].name, sizeof known[k].name, "%s", function);
    int calls = ++known[k].calls;
    const char *plan = getenv("PFRING_FAKE_FAIL");
    while (plan && *plan) {
        size_t length = strcspn(plan, "@=,");
        if (length == strlen(function) && strncmp(plan, function, length) == 0) {
            const char *rest = plan + length;
            int which = calls;
            if (*rest == '@')
                which = (int)strtol(rest + 1, (char **)&rest, 10);
            if (which == calls)
                return atoi(rest + 1);
        }
        plan = strchr(plan, ',');
        plan = plan ? plan + 1 : NULL;
    }
    return 0;
}

int fail(int code) {
    if (code < 0)
        return code;
    errno = code;
    return -1;
}

struct object *make(enum kind kind, const char *format, ...) {
    if (object_count == 256) {
        violation("more than 256 objects");
        abort();
    }
    struct object *object = &objects[object_count++];
    memset(object, 0, sizeof *object);
    object->kind = kind;
    object->alive = 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(object->name, sizeof object->name, format, arguments);
    va_end(arguments);
    return object;
}

struct object *object_of(const char *function, void *pointer, enum kind one, enum kind other) {
    for (int i = 0; i < object_count; i++) {
        struct object *object = &objects[i];
        if (object != pointer)
            continue;
        if (!object->alive)
            violation("%s: %s is gone", function, object->name);
        else if (object->kind != one && object->kind != other)
            violation("%s: %s is something else", function, object->name);
        else
            return object;
        return NULL;
    }
    violation("%s: a pointer that nobody was given", function);
    return NULL;
}

int next_record(struct object *object, void *into, long size) {
    char name[128];
    snprintf(name, sizeof name, "packets-%s", object->name);
    FILE *file = fopen(file_of(name), "r");
    if (file == NULL)
        return 0;
    int got = fseek(file, object->offset, SEEK_SET) == 0 && fread(into, 1, (size_t)size, file) == (size_t)size;
    fclose(file);
    return got;
}

__attribute__((destructor)) static void at_exit(void) {
    for (int i = 0; i < object_count; i++)
        if (objects[i].alive && objects[i].kind != DEVICE)
            violation("exit: %s was not given back", objects[i].name);
}
