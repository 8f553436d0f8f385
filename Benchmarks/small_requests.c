// SPDX-License-Identifier: Apache-2.0
// Produce requests of one 100-byte record each, over bare sockets: cheap enough that the node is what is measured.
//   small_requests PORT TOPIC PARTITIONS CONNECTIONS DEPTH SECONDS
// Each connection keeps DEPTH requests (version 7, acks=all) in flight, to partition (its number modulo PARTITIONS). After a second
// of warming up it prints: requests answered, seconds, p50 and p99 in ms from a request's sending to its answer.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { maximum_depth = 64, value_size = 100, maximum_samples = 1 << 24 };

struct connection {
    int socket;
    int partition;
    int sent_at, answered_at;
    double sent[maximum_depth];
    size_t received;
    unsigned char answer[1024];
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void put(unsigned char **at, uint64_t value, int bytes) {
    for (int index = bytes - 1; index >= 0; index--) *(*at)++ = (unsigned char)(value >> (8 * index));
}

static void put_bytes(unsigned char **at, const void *bytes, size_t count) {
    memcpy(*at, bytes, count);
    *at += count;
}

static uint32_t crc32c(const unsigned char *bytes, size_t count) {
    uint32_t crc = ~0u;
    while (count--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
    }
    return ~crc;
}

// A record batch (format 2) with one record.
static size_t make_batch(unsigned char *batch) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    uint64_t milliseconds = (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
    unsigned char *at = batch;
    put(&at, 0, 8);             // base offset
    unsigned char *length = at;
    put(&at, 0, 4);
    put(&at, (uint32_t)-1, 4);  // leader epoch
    put(&at, 2, 1);             // format
    unsigned char *checksum = at;
    put(&at, 0, 4);
    unsigned char *covered = at;
    put(&at, 0, 2);             // attributes
    put(&at, 0, 4);             // last offset, relative
    put(&at, milliseconds, 8);
    put(&at, milliseconds, 8);
    put(&at, (uint64_t)-1, 8);  // producer id, epoch, sequence: none
    put(&at, (uint64_t)-1, 2);
    put(&at, (uint64_t)-1, 4);
    put(&at, 1, 4);
    // The record; lengths are zigzag varints: its own takes two bytes, as does the value's.
    enum { body = 1 + 1 + 1 + 1 + 2 + value_size + 1 };
    put(&at, ((body * 2) & 0x7F) | 0x80, 1);
    put(&at, body * 2 >> 7, 1);
    put(&at, 0, 1);             // attributes
    put(&at, 0, 1);             // timestamp and offset, relative
    put(&at, 0, 1);
    put(&at, 1, 1);             // no key
    put(&at, ((value_size * 2) & 0x7F) | 0x80, 1);
    put(&at, value_size * 2 >> 7, 1);
    memset(at, 'x', value_size);
    at += value_size;
    put(&at, 0, 1);             // headers
    put(&length, (uint64_t)(at - batch - 12), 4);
    put(&checksum, crc32c(covered, (size_t)(at - covered)), 4);
    return (size_t)(at - batch);
}

static size_t make_request(unsigned char *request, const char *topic, int partition) {
    unsigned char batch[512];
    size_t size = make_batch(batch);
    unsigned char *at = request + 4;
    put(&at, 0, 2);             // Produce
    put(&at, 7, 2);
    put(&at, 1, 4);
    put(&at, 5, 2);
    put_bytes(&at, "bench", 5);
    put(&at, (uint64_t)-1, 2);  // no transaction
    put(&at, (uint64_t)-1, 2);  // acks
    put(&at, 30000, 4);
    put(&at, 1, 4);
    put(&at, strlen(topic), 2);
    put_bytes(&at, topic, strlen(topic));
    put(&at, 1, 4);
    put(&at, (uint64_t)partition, 4);
    put(&at, size, 4);
    put_bytes(&at, batch, size);
    unsigned char *length = request;
    put(&length, (uint64_t)(at - request - 4), 4);
    return (size_t)(at - request);
}

static unsigned char requests[64][1024];
static size_t sizes[64];
static float *samples;
static long answered;
static size_t error_at;
static int depth;

static void ask(struct connection *one, int count, double at) {
    unsigned char several[maximum_depth * 256];
    size_t size = sizes[one->partition];
    for (int index = 0; index < count; index++) {
        memcpy(several + (size_t)index * size, requests[one->partition], size);
        one->sent[one->sent_at++ % maximum_depth] = at;
    }
    if (send(one->socket, several, size * (size_t)count, 0) != (ssize_t)(size * (size_t)count)) die("send");
}

// Reads what has come, and sends as many requests as were answered.
static void serve(struct connection *one, int measures, int asks) {
    ssize_t got = recv(one->socket, one->answer + one->received, sizeof one->answer - one->received, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) die("the node closed the connection");
    one->received += (size_t)got;
    double at = now();
    size_t start = 0;
    int count = 0;
    while (one->received - start >= 4) {
        uint32_t size;
        memcpy(&size, one->answer + start, 4);
        size = be32toh(size);
        if (one->received - start < 4 + size) break;
        const unsigned char *error = one->answer + start + error_at;
        if (error[0] || error[1]) {
            fprintf(stderr, "Produce answered error %d\n", error[0] << 8 | error[1]);
            exit(1);
        }
        double sent = one->sent[one->answered_at++ % maximum_depth];
        if (measures && answered < maximum_samples) samples[answered++] = (float)(at - sent);
        start += 4 + size;
        count++;
    }
    one->received -= start;
    memmove(one->answer, one->answer + start, one->received);
    if (count && asks) ask(one, count, at);
}

static int ascending(const void *left, const void *right) {
    float a = *(const float *)left, b = *(const float *)right;
    return a < b ? -1 : a > b;
}

int main(int count, char **arguments) {
    if (count != 7) {
        fprintf(stderr, "usage: small_requests PORT TOPIC PARTITIONS CONNECTIONS DEPTH SECONDS\n");
        return 2;
    }
    const char *topic = arguments[2];
    int partitions = atoi(arguments[3]), connections = atoi(arguments[4]), seconds = atoi(arguments[6]);
    depth = atoi(arguments[5]);
    if (partitions < 1 || partitions > 64 || depth < 1 || depth > 8 || strlen(topic) > 32) {
        fprintf(stderr, "at most 64 partitions, 8 requests in flight, 32 characters of topic\n");
        return 2;
    }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int index = 0; index < partitions; index++) sizes[index] = make_request(requests[index], topic, index);
    // Size, correlation id, count of topics, name, count of partitions, index.
    error_at = 4 + 4 + 4 + 2 + strlen(topic) + 4 + 4;
    samples = malloc(maximum_samples * sizeof *samples);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    int poll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int index = 0; index < connections; index++) {
        struct connection *one = &all[index];
        one->partition = index % partitions;
        one->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (connect(one->socket, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
        setsockopt(one->socket, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, one->socket, &event) < 0) die("epoll_ctl");
    }
    for (int index = 0; index < connections; index++) ask(&all[index], depth, now());
    double begin = now() + 1, end = begin + seconds, began = 0;
    while (1) {
        double at = now();
        if (at >= end) break;
        if (!began && at >= begin) began = at;
        struct epoll_event events[512];
        int ready = epoll_wait(poll, events, 512, 100);
        for (int index = 0; index < ready; index++) serve(events[index].data.ptr, began > 0, 1);
    }
    double elapsed = now() - began;
    if (answered == 0) {
        fprintf(stderr, "nothing was answered\n");
        return 1;
    }
    qsort(samples, (size_t)answered, sizeof *samples, ascending);
    printf("%ld %.3f %.3f %.3f\n", answered, elapsed, samples[answered / 2] * 1e3, samples[answered / 100 * 99] * 1e3);
    return 0;
}
