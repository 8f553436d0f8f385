// SPDX-License-Identifier: Apache-2.0

// Drives sarama against a broker and prints one line an event, so that a test can read what happened.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/Shopify/sarama"
)

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

func main() {
	if len(os.Args) < 3 {
		log.Fatal("usage: sarama-client COMMAND BOOTSTRAP …")
	}
	addresses, arguments := []string{os.Args[2]}, os.Args[3:]
	switch os.Args[1] {
	case "produce":
		produce(addresses, arguments)
	case "consume":
		consume(addresses, arguments)
	case "member":
		member(addresses, arguments)
	case "admin":
		administer(addresses)
	case "describe-configs":
		describeConfigs(addresses, arguments[0])
	case "groups":
		describeGroups(addresses, arguments[0], arguments[1])
	default:
		log.Fatalf("no command %q", os.Args[1])
	}
}

func configuration(version sarama.KafkaVersion) *sarama.Config {
	config := sarama.NewConfig()
	config.Version = version
	config.ClientID = "sarama-client"
	return config
}

func check(err error, what string) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	check(err, "a number")
	return value
}

// produce TOPIC CODEC COUNT VERSION IDEMPOTENT: prints "partition offset value" for each acknowledged message.
func produce(addresses, arguments []string) {
	version, err := sarama.ParseKafkaVersion(arguments[3])
	check(err, "version")
	config := configuration(version)
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	config.Producer.Compression = codecs[arguments[1]]
	config.Producer.Flush.Frequency = 10 * time.Millisecond
	if arguments[4] == "idempotent" {
		config.Producer.Idempotent = true
		config.Net.MaxOpenRequests = 1
	}
	producer, err := sarama.NewAsyncProducer(addresses, config)
	check(err, "producer")
	count := number(arguments[2])
	go func() {
		for index := 0; index < count; index++ {
			message := &sarama.ProducerMessage{
				Topic:    arguments[0],
				Key:      sarama.StringEncoder(fmt.Sprintf("key-%d", index%17)),
				Value:    sarama.StringEncoder(fmt.Sprintf("%s %d", arguments[1], index)),
				Metadata: index,
			}
			if version.IsAtLeast(sarama.V0_11_0_0) {
				message.Headers = []sarama.RecordHeader{{Key: []byte("number"), Value: []byte(strconv.Itoa(index))}}
			}
			producer.Input() <- message
		}
	}()
	for done := 0; done < count; done++ {
		select {
		case message := <-producer.Successes():
			fmt.Println(message.Partition, message.Offset, message.Metadata)
		case failure := <-producer.Errors():
			log.Fatalf("produce: %v", failure)
		}
	}
	check(producer.Close(), "close")
}

// consume TOPIC COUNT: prints each value and the number in its header, of all partitions from their start.
func consume(addresses, arguments []string) {
	consumer, err := sarama.NewConsumer(addresses, configuration(sarama.V2_1_0_0))
	check(err, "consumer")
	partitions, err := consumer.Partitions(arguments[0])
	check(err, "partitions")
	messages := make(chan *sarama.ConsumerMessage)
	for _, partition := range partitions {
		reader, err := consumer.ConsumePartition(arguments[0], partition, sarama.OffsetOldest)
		check(err, "partition")
		go func() {
			for message := range reader.Messages() {
				messages <- message
			}
		}()
	}
	for left := number(arguments[1]); left > 0; left-- {
		message := <-messages
		header := "-"
		if len(message.Headers) > 0 {
			header = string(message.Headers[0].Value)
		}
		fmt.Printf("%d %d %s %s %s\n", message.Partition, message.Offset, message.Key, header, message.Value)
	}
}

type handler struct{ mutex sync.Mutex }

func (h *handler) Setup(session sarama.ConsumerGroupSession) error {
	count := 0
	for _, partitions := range session.Claims() {
		count += len(partitions)
	}
	fmt.Println("assigned", count, session.GenerationID())
	return nil
}

func (h *handler) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h *handler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		h.mutex.Lock()
		fmt.Println("value", string(message.Value))
		h.mutex.Unlock()
		session.MarkMessage(message, "")
	}
	return nil
}

// member GROUP TOPIC STRATEGY: reads until it is killed, or leaves when its input ends.
func member(addresses, arguments []string) {
	config := configuration(sarama.V2_2_0_0)
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.CommitInterval = 100 * time.Millisecond
	// Without a retention it commits with OffsetCommit 1, which Kafka dropped in 4.0; with one, with version 2.
	config.Consumer.Offsets.Retention = 24 * time.Hour
	config.Consumer.Group.Session.Timeout = 6 * time.Second
	config.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	if arguments[2] == "roundrobin" {
		config.Consumer.Group.Rebalance.Strategy = sarama.BalanceStrategyRoundRobin
	}
	group, err := sarama.NewConsumerGroup(addresses, arguments[0], config)
	check(err, "group")
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		buffer := make([]byte, 1)
		os.Stdin.Read(buffer)
		cancel()
	}()
	for ctx.Err() == nil {
		if err := group.Consume(ctx, []string{arguments[1]}, &handler{}); err != nil {
			fmt.Println("error", err)
			time.Sleep(200 * time.Millisecond)
		}
	}
	check(group.Close(), "leave")
	fmt.Println("left")
}

func show(what string, value interface{}) {
	text, err := json.Marshal(value)
	check(err, what)
	fmt.Println(what, string(text))
}

// admin: one round through the topics' and configs' APIs.
func administer(addresses []string) {
	config := configuration(sarama.V2_0_0_0)
	admin, err := sarama.NewClusterAdmin(addresses, config)
	check(err, "admin")
	retention := "3600000"
	detail := &sarama.TopicDetail{
		NumPartitions: 2, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &retention}}
	check(admin.CreateTopic("managed", detail, false), "create")
	show("create-again", fmt.Sprint(admin.CreateTopic("managed", detail, false)))
	show("validate", fmt.Sprint(admin.CreateTopic("validated", detail, true)))
	check(admin.CreatePartitions("managed", 4, nil, false), "grow")
	show("validated-exists", hasTopic(addresses, "validated"))
	described, err := admin.DescribeTopics([]string{"managed"})
	check(err, "describe")
	show("described", len(described[0].Partitions))
	brokers, controller, err := admin.DescribeCluster()
	check(err, "cluster")
	show("cluster", []int32{int32(len(brokers)), controller, brokers[0].ID()})
	changed := "7200000"
	check(admin.AlterConfig(sarama.TopicResource, "managed", map[string]*string{"retention.ms": &changed}, false), "alter")

	producerConfig := configuration(sarama.V2_0_0_0)
	producerConfig.Producer.Return.Successes = true
	producerConfig.Producer.Partitioner = sarama.NewManualPartitioner
	producer, err := sarama.NewSyncProducer(addresses, producerConfig)
	check(err, "producer")
	for index := 0; index < 10; index++ {
		_, _, err := producer.SendMessage(&sarama.ProducerMessage{
			Topic: "managed", Partition: 0, Value: sarama.StringEncoder("x")})
		check(err, "send")
	}
	check(producer.Close(), "close")
	check(admin.DeleteRecords("managed", map[int32]int64{0: 4}), "delete records")
	client, err := sarama.NewClient(addresses, configuration(sarama.V2_0_0_0))
	check(err, "client")
	oldest, err := client.GetOffset("managed", 0, sarama.OffsetOldest)
	check(err, "oldest")
	newest, err := client.GetOffset("managed", 0, sarama.OffsetNewest)
	check(err, "newest")
	show("offsets", []int64{oldest, newest})
	check(client.Close(), "close")
	check(admin.CreateTopic("gone", detail, false), "create")
	show("exists", hasTopic(addresses, "gone"))
	check(admin.DeleteTopic("gone"), "delete")
	show("exists", hasTopic(addresses, "gone"))
	check(admin.Close(), "close")
}

// hasTopic asks by Metadata: the ListTopics of ClusterAdmin wants DescribeConfigs 0, which Kafka dropped in 4.0.
func hasTopic(addresses []string, name string) bool {
	client, err := sarama.NewClient(addresses, configuration(sarama.V2_0_0_0))
	check(err, "client")
	defer client.Close()
	topics, err := client.Topics()
	check(err, "topics")
	for _, topic := range topics {
		if topic == name {
			return true
		}
	}
	return false
}

// describe-configs TOPIC: DescribeConfigs 0, always.
func describeConfigs(addresses []string, topic string) {
	admin, err := sarama.NewClusterAdmin(addresses, configuration(sarama.V2_0_0_0))
	check(err, "admin")
	_, err = admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic})
	fmt.Println("describe", err)
}

// groups GROUP TOPIC: what an administrator sees of a group.
func describeGroups(addresses []string, name, topic string) {
	admin, err := sarama.NewClusterAdmin(addresses, configuration(sarama.V2_0_0_0))
	check(err, "admin")
	groups, err := admin.ListConsumerGroups()
	check(err, "list groups")
	names := []string{}
	for group := range groups {
		names = append(names, group)
	}
	sort.Strings(names)
	show("groups", names)
	described, err := admin.DescribeConsumerGroups([]string{name})
	check(err, "describe groups")
	show("state", described[0].State)
	show("members", len(described[0].Members))
	offsets, err := admin.ListConsumerGroupOffsets(name, map[string][]int32{topic: {0}})
	check(err, "group offsets")
	block := offsets.GetBlock(topic, 0)
	show("offset", block.Offset)
}
