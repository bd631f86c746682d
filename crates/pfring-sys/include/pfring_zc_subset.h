/*
 * What the station calls of PF_RING ZC, declared for the binding generator and for the recording fake of
 * the tests. Written from the interface's facts: names, argument types, layouts and constants. Nothing here
 * is ntop's text.
 */
#ifndef CONJURE_PFRING_ZC_SUBSET_H
#define CONJURE_PFRING_ZC_SUBSET_H

#include <stdint.h>

/** A cluster: buffers in huge pages, shared by cooperating processes. */
typedef void pfring_zc_cluster;
/** A ring of packets with one producer and one consumer, or a device. */
typedef void pfring_zc_queue;
/** Empty buffers of one consumer. */
typedef void pfring_zc_buffer_pool;
/** Several queues that one packet can be sent to at once. */
typedef void pfring_zc_multi_queue;

/** Which end of a queue is meant. */
typedef enum {
    /** It is received from. */
    rx_only = 0,
    /** It is sent to. */
    tx_only = 1,
    /** Neither: counters alone. */
    management_only = 2
} pfring_zc_queue_mode;

/** Time of a packet's arrival. */
typedef struct {
    /** Seconds since the epoch. */
    uint32_t tv_sec;
    /** Nanoseconds of the second. */
    uint32_t tv_nsec;
} pfring_zc_timespec;

/** A buffer's handle. The packet is elsewhere: pfring_zc_pkt_buff_data(). */
typedef struct {
    /** Bytes in the buffer. */
    uint16_t len;
    /** Bits 0 and 1: good and bad IP checksum; 2 and 3: good and bad checksum of layer 4. */
    uint16_t flags;
    /** Hash of the card. */
    uint32_t hash;
    /** Time of arrival. */
    pfring_zc_timespec ts;
    /** Metadata of the user. */
    uint8_t user[];
} pfring_zc_pkt_buff;

/** Counters of a queue or device. */
typedef struct {
    /** Packets received. */
    uint64_t recv;
    /** Packets sent. */
    uint64_t sent;
    /** Packets dropped. */
    uint64_t drop;
} pfring_zc_stat;

/** Version of the ZC library, as text. */
char *pfring_zc_version(void);

/** Makes a cluster of tot_num_buffers buffers of buffer_len bytes; NULL with errno. */
pfring_zc_cluster *pfring_zc_create_cluster(uint32_t cluster_id, uint32_t buffer_len, uint32_t metadata_len,
                                            uint32_t tot_num_buffers, int32_t numa_node_id,
                                            const char *hugepages_mountpoint, uint32_t flags);
/** Takes the cluster and everything in it down. */
void pfring_zc_destroy_cluster(pfring_zc_cluster *cluster);
/** Opens a device within the cluster; NULL with errno. */
pfring_zc_queue *pfring_zc_open_device(pfring_zc_cluster *cluster, const char *device_name,
                                       pfring_zc_queue_mode queue_mode, uint32_t flags);
/** Makes a queue and a pool with the same number; negative with errno. */
int pfring_zc_create_queue_pool_pair(pfring_zc_cluster *cluster, uint32_t queue_len, uint32_t pool_len,
                                     pfring_zc_queue **queue, pfring_zc_buffer_pool **pool);
/** Makes a pool; NULL with errno. */
pfring_zc_buffer_pool *pfring_zc_create_buffer_pool(pfring_zc_cluster *cluster, uint32_t pool_len);
/** Joins queues, which from then on are sent to through the result alone; NULL with errno. */
pfring_zc_multi_queue *pfring_zc_create_multi_queue(pfring_zc_queue *queues[], uint32_t num_queues);
/** Number of a queue in its cluster. */
uint32_t pfring_zc_get_queue_id(pfring_zc_queue *queue);
/** Sets the text of /proc/net/pf_ring/stats. */
int pfring_zc_set_proc_stats(pfring_zc_cluster *cluster, char *stats);

/** Sends the packet of *pkt_handle, which is an empty buffer afterwards; its length, or negative. */
int pfring_zc_send_pkt(pfring_zc_queue *queue, pfring_zc_pkt_buff **pkt_handle, uint8_t flush_packet);
/** Sends the packet to every queue of the mask, bit 0 the first; the number of copies. */
int pfring_zc_send_pkt_multi(pfring_zc_multi_queue *multi_queue, pfring_zc_pkt_buff **pkt_handle,
                             uint64_t queues_mask, uint8_t flush_packet);

/** Attaches to a queue of another process; NULL with errno. */
pfring_zc_queue *pfring_zc_ipc_attach_queue(uint32_t cluster_id, uint32_t queue_id,
                                            pfring_zc_queue_mode queue_mode);
/** Attaches to a pool of another process; NULL with errno. */
pfring_zc_buffer_pool *pfring_zc_ipc_attach_buffer_pool(uint32_t cluster_id, uint32_t pool_id);
/** Lets go of a queue. */
void pfring_zc_ipc_detach_queue(pfring_zc_queue *queue);
/** Lets go of a pool. */
void pfring_zc_ipc_detach_buffer_pool(pfring_zc_buffer_pool *pool);

/** Takes an empty buffer out of a pool; NULL when there is none. */
pfring_zc_pkt_buff *pfring_zc_get_packet_handle_from_pool(pfring_zc_buffer_pool *pool);
/** Puts a buffer back into a pool. */
void pfring_zc_release_packet_handle_to_pool(pfring_zc_buffer_pool *pool, pfring_zc_pkt_buff *pkt_handle);
/** First byte of a buffer's packet; any queue of the cluster will do. */
unsigned char *pfring_zc_pkt_buff_data(pfring_zc_pkt_buff *pkt_handle, pfring_zc_queue *queue);

/** Swaps empty buffers for packets, at most max_num_packets; their number, 0 when there are none, or negative. */
int pfring_zc_recv_pkt_burst(pfring_zc_queue *queue, pfring_zc_pkt_buff **pkt_handles, uint32_t max_num_packets,
                             uint8_t wait_for_incoming_packet);
/** Ends a wait for packets. */
void pfring_zc_queue_breakloop(pfring_zc_queue *queue);
/** Reads counters; negative on failure. */
int pfring_zc_stats(pfring_zc_queue *queue, pfring_zc_stat *stats);

#endif
