/*
 * What the station calls of PF_RING without ZC, declared for the binding generator and for the recording fake
 * of the tests. Written from the interface's facts: names, argument types, layouts and constants. Nothing here
 * is ntop's text.
 */
#ifndef CONJURE_PFRING_SUBSET_H
#define CONJURE_PFRING_SUBSET_H

#include <stdint.h>
#include <sys/time.h>

/** An open ring. */
typedef struct __pfring pfring;

/** Bit of pfring_open(): take frames that are addressed to others. */
#define PF_RING_PROMISC (1 << 3)

/** How the members of a cluster share packets. */
typedef enum {
    /** In turns. */
    cluster_round_robin = 1,
    /** By addresses. */
    cluster_per_flow_2_tuple = 2,
    /** By addresses, ports and protocol. */
    cluster_per_flow_5_tuple = 4,
    /** By the addresses inside a tunnel. */
    cluster_per_inner_flow_2_tuple = 7,
    /** By addresses, ports and protocol inside a tunnel. */
    cluster_per_inner_flow_5_tuple = 9
} cluster_type;

/** Which packets are captured. */
typedef enum {
    /** Those that come in. */
    rx_only_direction = 1
} packet_direction;

/** What a ring is used for. */
typedef enum {
    /** Receiving alone. */
    recv_only_mode = 2
} socket_mode;

/** A packet as it was received; the layout is packed. */
struct pfring_pkthdr {
    /** Time of arrival. */
    struct timeval ts;
    /** Bytes that were captured. */
    uint32_t caplen;
    /** Bytes on the wire. */
    uint32_t len;
    /** Nanoseconds since the epoch, or 0. */
    uint64_t timestamp_ns;
    /** Flags of the kernel. */
    uint32_t flags;
    /** 1 for a packet that came in. */
    uint8_t rx_direction;
    /** Port of the card. */
    uint8_t port_id;
    /** The card. */
    uint16_t device_id;
    /** Index of the interface. */
    int32_t if_index;
    /** Hash of the packet. */
    uint32_t pkt_hash;
    /** What a parser found, which nobody asks for here. */
    uint8_t parsed[161];
} __attribute__((packed));

/** Counters of a ring. */
typedef struct {
    /** Packets received. */
    uint64_t recv;
    /** Packets dropped. */
    uint64_t drop;
    /** Packets that were kept in the kernel. */
    uint64_t shunt;
} pfring_stat;

/** Opens a ring on a device for caplen bytes of each packet; NULL with errno. */
pfring *pfring_open(const char *device_name, uint32_t caplen, uint32_t flags);
/** Version of the library and the module, as 0x00MMmmpp; negative on failure. */
int pfring_version(pfring *ring, uint32_t *version);
/** Joins a cluster; negative on failure. */
int pfring_set_cluster(pfring *ring, unsigned int cluster_id, cluster_type the_type);
/** Chooses directions; negative on failure. */
int pfring_set_direction(pfring *ring, packet_direction direction);
/** Chooses the use; negative on failure. */
int pfring_set_socket_mode(pfring *ring, socket_mode mode);
/** Begins to capture; negative on failure. */
int pfring_enable_ring(pfring *ring);
/** The next packet, in place when buffer_len is 0; 1, 0 when there is none, or negative. */
int pfring_recv(pfring *ring, unsigned char **buffer, unsigned int buffer_len, struct pfring_pkthdr *hdr,
                uint8_t wait_for_incoming_packet);
/** Reads counters; negative on failure. */
int pfring_stats(pfring *ring, pfring_stat *stats);
/** Ends a wait for packets. */
void pfring_breakloop(pfring *ring);
/** Ends capture; the ring is still there. */
void pfring_shutdown(pfring *ring);
/** Frees the ring. */
void pfring_close(pfring *ring);

#endif
