// SPDX-License-Identifier: Apache-2.0
// A load generator on librdkafka: the client whose figures the broker is measured with.
//   kafka_load produce HOST:PORT TOPIC COUNT SIZE      as fast as it goes, acks=all, 1 MB batches; prints seconds
//   kafka_load consume HOST:PORT TOPIC COUNT PARTITIONS
//   kafka_load latency HOST:PORT TOPIC RATE SECONDS    one record at a time at a rate, acks=all; prints p50 and p99 in ms of
//                                                      acknowledgements, then of records from producer to consumer
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void set(rd_kafka_conf_t *configuration, const char *name, const char *value) {
    char error[512];
    if (rd_kafka_conf_set(configuration, name, value, error, sizeof error) != RD_KAFKA_CONF_OK) {
        fprintf(stderr, "%s=%s: %s\n", name, value, error);
        exit(2);
    }
}

static rd_kafka_t *client(rd_kafka_type_t type, rd_kafka_conf_t *configuration) {
    char error[512];
    rd_kafka_t *handle = rd_kafka_new(type, configuration, error, sizeof error);
    if (!handle) {
        fprintf(stderr, "%s\n", error);
        exit(2);
    }
    return handle;
}

static long failures;
static double *latencies;
static long measured;

static void delivered(rd_kafka_t *handle, const rd_kafka_message_t *message, void *opaque) {
    (void)handle;
    (void)opaque;
    if (message->err) {
        failures++;
    } else if (latencies && message->_private) {
        double *sent = message->_private;
        latencies[measured++] = now() - *sent;
        free(sent);
    }
}

static int produce(const char *brokers, const char *topic, long count, size_t size) {
    rd_kafka_conf_t *configuration = rd_kafka_conf_new();
    set(configuration, "bootstrap.servers", brokers);
    set(configuration, "acks", "all");
    set(configuration, "linger.ms", "5");
    set(configuration, "batch.size", "1000000");
    set(configuration, "batch.num.messages", "1000000");
    set(configuration, "queue.buffering.max.messages", "2000000");
    set(configuration, "queue.buffering.max.kbytes", "1000000");
    rd_kafka_conf_set_dr_msg_cb(configuration, delivered);
    rd_kafka_t *handle = client(RD_KAFKA_PRODUCER, configuration);
    char *payload = malloc(size);
    for (size_t index = 0; index < size; index++) payload[index] = (char)('a' + index * 7 % 26);
    double began = now();
    for (long index = 0; index < count; index++) {
        rd_kafka_resp_err_t error;
        while ((error = rd_kafka_producev(handle, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_VALUE(payload, size),
                                          RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END)) ==
               RD_KAFKA_RESP_ERR__QUEUE_FULL)
            rd_kafka_poll(handle, 10);
        if (error) {
            fprintf(stderr, "%s\n", rd_kafka_err2str(error));
            return 1;
        }
        if (index % 1000 == 0) rd_kafka_poll(handle, 0);
    }
    rd_kafka_flush(handle, 120000);
    printf("%.3f\n", now() - began);
    if (failures || rd_kafka_outq_len(handle)) {
        fprintf(stderr, "%ld failed, %d not sent\n", failures, rd_kafka_outq_len(handle));
        return 1;
    }
    rd_kafka_destroy(handle);
    return 0;
}

static int consume(const char *brokers, const char *topic, long count, int partitions) {
    rd_kafka_conf_t *configuration = rd_kafka_conf_new();
    set(configuration, "bootstrap.servers", brokers);
    set(configuration, "group.id", "load");
    set(configuration, "fetch.message.max.bytes", "1048576");
    set(configuration, "queued.min.messages", "1000000");
    rd_kafka_t *handle = client(RD_KAFKA_CONSUMER, configuration);
    rd_kafka_poll_set_consumer(handle);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int index = 0; index < partitions; index++)
        rd_kafka_topic_partition_list_add(list, topic, index)->offset = 0;
    rd_kafka_assign(handle, list);
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(handle);
    static rd_kafka_message_t *messages[10000];
    double began = now();
    long seen = 0;
    while (seen < count) {
        ssize_t got = rd_kafka_consume_batch_queue(queue, 1000, messages, 10000);
        if (now() - began > 300) {
            fprintf(stderr, "only %ld of %ld came\n", seen, count);
            return 1;
        }
        for (ssize_t index = 0; index < got; index++) {
            if (!messages[index]->err) seen++;
            rd_kafka_message_destroy(messages[index]);
        }
    }
    printf("%.3f\n", now() - began);
    fflush(stdout);
    _Exit(0);
}

static int ascending(const void *left, const void *right) {
    double difference = *(const double *)left - *(const double *)right;
    return difference < 0 ? -1 : difference > 0;
}

static double *journeys;
static long arrived;
static volatile int is_listening;
static long awaited;
static long warming;

static void *listen_to(void *opaque) {
    const char **where = opaque;
    rd_kafka_conf_t *configuration = rd_kafka_conf_new();
    set(configuration, "bootstrap.servers", where[0]);
    set(configuration, "group.id", "latency");
    rd_kafka_t *handle = client(RD_KAFKA_CONSUMER, configuration);
    rd_kafka_poll_set_consumer(handle);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, where[1], 0)->offset = 0;
    rd_kafka_assign(handle, list);
    is_listening = 1;
    for (long seen = 0; seen < awaited;) {
        rd_kafka_message_t *message = rd_kafka_consumer_poll(handle, 10000);
        if (!message) break;
        if (!message->err && message->len >= sizeof(double)) {
            double sent;
            memcpy(&sent, message->payload, sizeof sent);
            if (seen++ >= warming) journeys[arrived++] = now() - sent;
        }
        rd_kafka_message_destroy(message);
    }
    return NULL;
}

static int latency(const char *brokers, const char *topic, long rate, long seconds) {
    rd_kafka_conf_t *configuration = rd_kafka_conf_new();
    set(configuration, "bootstrap.servers", brokers);
    set(configuration, "acks", "all");
    set(configuration, "linger.ms", "0");
    rd_kafka_conf_set_dr_msg_cb(configuration, delivered);
    rd_kafka_t *handle = client(RD_KAFKA_PRODUCER, configuration);
    long total = rate * seconds, warm = rate;
    latencies = calloc((size_t)(total + warm), sizeof *latencies);
    journeys = calloc((size_t)(total + warm), sizeof *journeys);
    awaited = total + warm;
    warming = warm;
    const char *where[] = {brokers, topic};
    pthread_t listener;
    pthread_create(&listener, NULL, listen_to, where);
    while (!is_listening) usleep(1000);
    char payload[100];
    memset(payload, 'x', sizeof payload);
    double began = now();
    for (long index = 0; index < total + warm; index++) {
        double due = began + (double)index / (double)rate;
        while (now() < due) rd_kafka_poll(handle, 0);
        double *sent = NULL, sending = now();
        memcpy(payload, &sending, sizeof sending);
        if (index >= warm) {
            sent = malloc(sizeof *sent);
            *sent = sending;
        }
        rd_kafka_producev(handle, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_VALUE(payload, sizeof payload),
                          RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_OPAQUE(sent), RD_KAFKA_V_END);
    }
    rd_kafka_flush(handle, 30000);
    pthread_join(listener, NULL);
    if (failures || measured == 0 || arrived < total) {
        fprintf(stderr, "%ld failed, %ld measured, %ld of %ld came\n", failures, measured, arrived, total);
        return 1;
    }
    qsort(latencies, (size_t)measured, sizeof *latencies, ascending);
    qsort(journeys, (size_t)arrived, sizeof *journeys, ascending);
    printf("%.3f %.3f %.3f %.3f\n", latencies[measured / 2] * 1e3, latencies[measured * 99 / 100] * 1e3,
           journeys[arrived / 2] * 1e3, journeys[arrived * 99 / 100] * 1e3);
    return 0;
}

int main(int count, char **arguments) {
    if (count == 6) {
        const char *mode = arguments[1];
        long first = atol(arguments[4]), second = atol(arguments[5]);
        if (!strcmp(mode, "produce")) return produce(arguments[2], arguments[3], first, (size_t)second);
        if (!strcmp(mode, "consume")) return consume(arguments[2], arguments[3], first, (int)second);
        if (!strcmp(mode, "latency")) return latency(arguments[2], arguments[3], first, second);
    }
    fprintf(stderr, "usage: kafka_load produce|consume|latency HOST:PORT TOPIC N N\n");
    return 2;
}
