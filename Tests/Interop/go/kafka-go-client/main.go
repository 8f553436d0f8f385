// SPDX-License-Identifier: Apache-2.0

// Drives segmentio's kafka-go against a broker and prints one line an event, so that a test can read what happened.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	kafka "github.com/segmentio/kafka-go"
	_ "github.com/segmentio/kafka-go/gzip"
)

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: kafka-go-client COMMAND BOOTSTRAP …")
	}
	address, arguments := os.Args[2], os.Args[3:]
	switch os.Args[1] {
	case "admin":
		administer(address)
	case "offsets":
		offsets(address, arguments[0])
	case "produce":
		produce(address, arguments[0])
	case "consume":
		consume(address, arguments[0])
	case "member":
		member(address, arguments[0], arguments[1])
	default:
		log.Fatalf("no command %q", os.Args[1])
	}
}

func check(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

func dial(address string) *kafka.Conn {
	connection, err := kafka.Dial("tcp", address)
	check(err, "dial")
	check(connection.SetDeadline(time.Now().Add(30*time.Second)), "deadline")
	return connection
}

// admin: CreateTopics 0, Metadata 1, DeleteTopics 1.
func administer(address string) {
	connection := dial(address)
	topic := kafka.TopicConfig{
		Topic: "managed", NumPartitions: 3, ReplicationFactor: 1,
		ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "3600000"}},
	}
	err := connection.CreateTopics(topic)
	fmt.Println("create", err)
	connection = dial(address)
	partitions, err := connection.ReadPartitions("existing")
	check(err, "partitions")
	count := map[string]int{}
	for _, partition := range partitions {
		count[partition.Topic]++
	}
	fmt.Println("partitions", count["existing"])
	fmt.Println("delete", connection.DeleteTopics("existing"))
}

// offsets TOPIC: ListOffsets 1.
func offsets(address, topic string) {
	connection, err := kafka.DialLeader(context.Background(), "tcp", address, topic, 0)
	check(err, "leader")
	first, last, err := connection.ReadOffsets()
	check(err, "offsets")
	fmt.Println("offsets", first, last)
}

// produce TOPIC: Produce 2, always.
func produce(address, topic string) {
	connection, err := kafka.DialLeader(context.Background(), "tcp", address, topic, 0)
	check(err, "leader")
	check(connection.SetDeadline(time.Now().Add(30*time.Second)), "deadline")
	_, err = connection.WriteMessages(kafka.Message{Value: []byte("x")})
	fmt.Println("produce", err)
}

// consume TOPIC: Fetch 2, always.
func consume(address, topic string) {
	connection, err := kafka.DialLeader(context.Background(), "tcp", address, topic, 0)
	check(err, "leader")
	check(connection.SetDeadline(time.Now().Add(30*time.Second)), "deadline")
	message, err := connection.ReadMessage(1 << 20)
	fmt.Println("consume", string(message.Value), err)
}

// member GROUP TOPIC: joins (JoinGroup 1, SyncGroup 0, OffsetFetch 1, Heartbeat 0) and reads until its input ends.
func member(address, group, topic string) {
	reader := kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{address}, GroupID: group, Topic: topic, MinBytes: 1, MaxBytes: 1 << 20,
		MaxWait: 200 * time.Millisecond, HeartbeatInterval: 500 * time.Millisecond, SessionTimeout: 6 * time.Second,
		Logger: log.New(os.Stdout, "log ", 0), ErrorLogger: log.New(os.Stdout, "error ", 0),
	})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		buffer := make([]byte, 1)
		os.Stdin.Read(buffer)
		cancel()
	}()
	for {
		message, err := reader.ReadMessage(ctx)
		if err != nil {
			break
		}
		fmt.Println("value", string(message.Value))
	}
	check(reader.Close(), "leave")
	fmt.Println("left")
}
