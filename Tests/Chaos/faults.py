# SPDX-License-Identifier: Apache-2.0
"""What is done to a cluster. A fault is a function of the run, drawn and timed by the run's seed; healing is common to all."""

import signal
import time

from nodes import NODES


def hold(run, shortest, longest):
    time.sleep(run.random.uniform(shortest, longest))


def others(node):
    return [n for n in NODES if n != node]


def kill_leader(run):
    node = run.leader()
    run.say(f"kill -9 of node {node}, which leads")
    run.cluster.kill(node)
    hold(run, 0, 6)


def kill_controller(run):
    node = run.controller()
    run.say(f"kill -9 of node {node}, the controller")
    run.cluster.kill(node)
    hold(run, 0, 6)


def kill_two(run):
    victims = run.random.sample(NODES, 2)
    run.say(f"kill -9 of nodes {victims}")
    run.cluster.kill(*victims)
    hold(run, 0, 5)


def kill_all(run):
    run.say("kill -9 of all nodes")
    run.cluster.kill(*NODES)
    order = run.random.sample(NODES, 3)
    for node in order:
        run.say(f"start of node {node}")
        run.cluster.start(node)
        hold(run, 0, 1.5)


def kill_in_turn(run):
    """The next one dies before the one before it is in sync again."""
    for node in run.random.sample(NODES, 3):
        run.say(f"kill -9 of node {node}, started again at once")
        run.cluster.kill(node)
        run.cluster.start(node)
        hold(run, 0.2, 2.5)


def pause_leader(run):
    node = run.leader()
    seconds = run.random.uniform(3, 12)
    run.say(f"SIGSTOP of node {node}, which leads, for {seconds:.1f} s")
    run.cluster.pause(node)
    time.sleep(seconds)
    run.cluster.go_on(node)


def pause_controller(run):
    node = run.controller()
    seconds = run.random.uniform(3, 12)
    run.say(f"SIGSTOP of node {node}, the controller, for {seconds:.1f} s")
    run.cluster.pause(node)
    time.sleep(seconds)
    run.cluster.go_on(node)


def pause_and_kill(run):
    """A node wakes when another one is gone."""
    first, second = run.random.sample(NODES, 2)
    run.say(f"SIGSTOP of node {first}, then kill -9 of node {second}, then node {first} goes on")
    run.cluster.pause(first)
    hold(run, 2, 5)
    run.cluster.kill(second)
    hold(run, 0, 0.5)
    run.cluster.go_on(first)
    hold(run, 1, 4)


def isolate(run):
    node = run.random.choice([run.leader(), run.controller()])
    clients = run.random.random() < 0.5
    run.say(f"node {node} and the others do not reach each other" + (", nor do clients reach it" if clients else ""))
    for peer in others(node) + (["clients"] if clients else []):
        run.cluster.network.cut(node, peer)
        run.cluster.network.cut(peer, node)
    hold(run, 3, 12)


def cut_pair(run):
    first, second = run.random.sample(NODES, 2)
    run.say(f"nodes {first} and {second} do not reach each other")
    run.cluster.network.cut(first, second)
    run.cluster.network.cut(second, first)
    hold(run, 3, 12)


def deaf(run):
    node = run.random.choice([run.leader(), run.controller()])
    run.say(f"node {node} does not hear the others, but they hear it")
    for peer in others(node):
        run.cluster.network.cut(peer, node)
    hold(run, 3, 12)


def mute(run):
    node = run.random.choice([run.leader(), run.controller()])
    run.say(f"the others do not hear node {node}, but it hears them")
    for peer in others(node):
        run.cluster.network.cut(node, peer)
    hold(run, 3, 12)


def one_way(run):
    first, second = run.random.sample(NODES, 2)
    run.say(f"what node {first} sends to node {second} is lost")
    run.cluster.network.cut(first, second)
    hold(run, 3, 12)


def flapping(run):
    for _ in range(run.random.randint(3, 8)):
        node = run.random.choice(NODES)
        run.say(f"node {node} is cut off for a moment")
        for peer in others(node):
            run.cluster.network.cut(node, peer)
            run.cluster.network.cut(peer, node)
        hold(run, 0.3, 1.5)
        run.cluster.network.heal()
        hold(run, 0, 1)


def cut_and_kill_all(run):
    node = run.leader()
    run.say(f"node {node}, which leads, is cut off, then kill -9 of all")
    for peer in others(node):
        run.cluster.network.cut(node, peer)
        run.cluster.network.cut(peer, node)
    hold(run, 1, 5)
    run.cluster.kill(*NODES)


def wipe_follower(run):
    # More than one copy at a time must not be missing: nobody promises anything then.
    run.wait_in_sync()
    node = run.random.choice(NODES)
    run.say(f"kill -9 of node {node}, its disk is emptied")
    run.cluster.kill(node)
    run.cluster.wipe(node)
    hold(run, 0, 4)
    run.cluster.start(node)
    if run.random.random() < 0.3:
        # With one voter of three left nobody may decide anything: the new copy has no vote.
        other = run.random.choice(others(node))
        hold(run, 0, 1)
        run.say(f"kill -9 of node {other} as well")
        run.cluster.kill(other)
        hold(run, 0, 4)
        run.cluster.start(other)
    run.wait_in_sync()
    # An emptied node votes again only when an operator says so, and a majority must have kept its votes until then.
    run.readmit(node)


def full_disk(run):
    node = run.random.choice([run.leader(), run.controller()])
    run.say(f"the disk of node {node} is full")
    run.cluster.may_end.add(node)
    run.cluster.fill(node)
    hold(run, 3, 10)


def rolling_restart(run):
    # A process that has just begun takes no orders yet.
    run.wait_in_sync()
    for node in run.random.sample(NODES, 3):
        run.say(f"SIGTERM of node {node}")
        status = run.cluster.kill(node, how=signal.SIGTERM)[node]
        if status != 0:
            run.violation(f"node {node} ended with status {status} at SIGTERM")
        run.cluster.start(node)
        run.wait_in_sync()


def power_of_all(run):
    run.say("the power of all nodes fails")
    run.cluster.lose_power(run.random, *NODES)
    hold(run, 0, 1)


def power_of_leader(run):
    node = run.leader()
    run.say(f"the power of node {node}, which leads, fails")
    run.cluster.lose_power(run.random, node)
    hold(run, 0, 4)


def power_in_recovery(run):
    """It fails again while the nodes recover."""
    run.say("the power of all nodes fails, and again as they start")
    run.cluster.lose_power(run.random, *NODES)
    for _ in range(run.random.randint(1, 3)):
        run.cluster.start_missing()
        hold(run, 0.05, 2.5)
        run.cluster.lose_power(run.random, *NODES)


# Those behind the first need a network and a disk for each node.
EVERYWHERE = [
    kill_leader, kill_controller, kill_two, kill_all, kill_in_turn, pause_leader, pause_controller, pause_and_kill,
    wipe_follower, rolling_restart,
]
ISOLATED = [isolate, cut_pair, deaf, mute, one_way, flapping, cut_and_kill_all, full_disk]
# These need the journal of what is not synced.
POWER = [power_of_all, power_of_leader, power_in_recovery]
