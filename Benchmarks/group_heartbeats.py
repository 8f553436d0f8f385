# SPDX-License-Identifier: Apache-2.0
"""Members of groups that do nothing but heartbeat, each on a connection of its own, over bare sockets."""

import os
import resource
import selectors
import socket
import struct
import time


def string(text):
    data = text.encode()
    return struct.pack(">h", len(data)) + data


def compact(text):
    data = text.encode()
    return bytes([len(data) + 1]) + data


class Member:
    """One member: joins, and then sends a heartbeat whenever it is told to."""

    def __init__(self, port, group, name):
        self.group, self.name = group, name
        self.id, self.epoch = "", 0
        self.received = b""
        self.awaits = 0
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, key, version, body, flexible=False):
        frame = struct.pack(">hhi", key, version, 1) + string(self.name) + (b"\0" if flexible else b"") + body
        self.socket.sendall(struct.pack(">i", len(frame)) + frame)
        self.awaits += 1

    def receive(self):
        """One whole answer, behind its correlation id; None while there is none."""
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise RuntimeError(f"the node closed the connection of {self.name}")
        self.received += piece
        if len(self.received) < 4:
            return None
        size = struct.unpack_from(">i", self.received)[0]
        if len(self.received) < 4 + size:
            return None
        answer, self.received = self.received[8:4 + size], self.received[4 + size:]
        self.awaits -= 1
        return answer

    def receive_whole(self):
        answer = None
        while answer is None:
            answer = self.receive()
        return answer


class ClassicMember(Member):
    interval = 3.0

    def join(self):
        # Version 3: nobody has to come twice.
        self.send(11, 3, string(self.group) + struct.pack(">ii", 600_000, 60_000) + string(self.id) + string("consumer")
                  + struct.pack(">i", 1) + string("range") + struct.pack(">i", 4) + b"meta")

    def joined(self, answer):
        error, self.epoch = struct.unpack_from(">hi", answer, 4)
        if error:
            raise RuntimeError(f"JoinGroup answered error {error}")
        position = 10
        texts = []
        for _ in range(3):
            size = struct.unpack_from(">h", answer, position)[0]
            texts.append(answer[position + 2:position + 2 + size].decode())
            position += 2 + size
        self.id = texts[2]
        self.is_leader = texts[1] == texts[2]

    def sync(self, others):
        given = others if self.is_leader else []
        self.send(14, 0, string(self.group) + struct.pack(">i", self.epoch) + string(self.id)
                  + struct.pack(">i", len(given))
                  + b"".join(string(one.id) + struct.pack(">i", 4) + b"part" for one in given))

    def heartbeat(self):
        self.send(12, 0, string(self.group) + struct.pack(">i", self.epoch) + string(self.id))

    def answered(self, answer):
        return struct.unpack_from(">h", answer)[0]


class ConsumerMember(Member):
    interval = 5.0

    def heartbeat(self, topics=b"\0", partitions=b"\0", timeout=-1):
        # Group, member, epoch, instance, rack, timeout, topics, pattern, assignor, partitions, tags.
        self.send(68, 1, compact(self.group) + compact(self.name) + struct.pack(">i", self.epoch) + b"\0\0"
                  + struct.pack(">i", timeout) + topics + b"\0\0" + partitions + b"\0", flexible=True)

    def join(self):
        self.heartbeat(topics=b"\2" + compact("nothing"), partitions=b"\1", timeout=60_000)

    def answered(self, answer):
        # Tags, throttle time, error, message, member, epoch.
        error = struct.unpack_from(">h", answer, 5)[0]
        if error:
            return error
        position = 7
        for _ in range(2):
            size = answer[position]
            position += 1 + max(0, size - 1)
        self.epoch = struct.unpack_from(">i", answer, position)[0]
        return 0


def allow_descriptors(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def gather(port, kind, groups, size):
    """Joins all members of all groups and brings each group to rest."""
    # The first who asks for a coordinator has the topic of groups made.
    asking = Member(port, "group-0", "asking")
    while True:
        asking.send(10, 0, string(asking.group))
        if struct.unpack_from(">h", asking.receive_whole())[0] == 0:
            break
        time.sleep(0.1)
    asking.socket.close()
    time.sleep(1)
    all_members = []
    for number in range(groups):
        members = [kind(port, f"group-{number}", f"member-{number}-{index}") for index in range(size)]
        for member in members:
            member.join()
        if kind is ClassicMember:
            for member in members:
                member.joined(member.receive_whole())
            if len({member.epoch for member in members}) != 1:
                raise RuntimeError("the members of a group are of several generations: the machine is too slow for this")
            for member in members:
                member.sync(members)
            for member in members:
                member.receive_whole()
        else:
            for member in members:
                if member.answered(member.receive_whole()):
                    raise RuntimeError("a member may not join")
            for member in members:
                member.heartbeat()
                member.answered(member.receive_whole())
        all_members += members
    return all_members


def heartbeat(members, seconds):
    """Heartbeats of all members, evenly spread, for so long. Returns how many were answered."""
    selector = selectors.DefaultSelector()
    for member in members:
        selector.register(member.socket, selectors.EVENT_READ, member)
    step = members[0].interval / len(members)
    began = time.monotonic()
    sent = answered = 0
    while (now := time.monotonic()) - began < seconds or (answered < sent and now - began < seconds + 30):
        while sent * step <= min(now - began, seconds):
            members[sent % len(members)].heartbeat()
            sent += 1
        for key, _ in selector.select(0.002):
            answer = key.data.receive()
            if answer is None:
                continue
            if error := key.data.answered(answer):
                raise RuntimeError(f"a heartbeat was answered with error {error}")
            answered += 1
    selector.close()
    return answered


def measure(broker, kind, groups, size, seconds, cpu_seconds):
    """What the heartbeats of so many members cost, as part of a core, and how many there were a second."""
    allow_descriptors(groups * size + 100)
    members = gather(broker.port, kind, groups, size)
    heartbeat(members, kind.interval)
    before, began = cpu_seconds(broker.process), time.monotonic()
    count = heartbeat(members, seconds)
    cpu, elapsed = cpu_seconds(broker.process) - before, time.monotonic() - began
    for member in members:
        member.socket.close()
    return cpu / elapsed, count / elapsed
