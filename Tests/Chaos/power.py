# SPDX-License-Identifier: Apache-2.0
"""The power fails: what a node changed on its disk and did not sync is lost, in part or whole (powerloss.c keeps the journal).

Of a file's unsynced changes none, all, the first few, or for each sector the content of some moment survive, and its size of some
moment; of a folder's unsynced entries all or the first few (a file system with a journal)."""

import os
import shutil
import struct

SECTOR = 512
HEAD = struct.Struct("=cQQQI")


class Change:
    __slots__ = ("kind", "inode", "a", "b", "text", "order")

    def __init__(self, kind, inode, a, b, text, order):
        self.kind, self.inode, self.a, self.b, self.text, self.order = kind, inode, a, b, text, order


def unsynced(journal):
    """Inode of a file or folder -> its changes that no sync has covered, oldest first."""
    with open(journal, "rb") as file:
        content = file.read()
    pending, begun, at, order = {}, {}, 0, 0
    while at + HEAD.size <= len(content):
        kind, inode, a, b, count = HEAD.unpack_from(content, at)
        at += HEAD.size
        if at + count > len(content):
            break  # the process died as it wrote this, before the change
        text = content[at:at + count]
        at += count
        order += 1
        if kind == b"b":
            begun[inode, a] = order
        elif kind == b"e":
            since = begun.pop((inode, a), 0)
            pending[inode] = [change for change in pending.get(inode, ()) if change.order > since]
        else:
            pending.setdefault(inode, []).append(Change(kind, inode, a, b, text, order))
    return {inode: changes for inode, changes in pending.items() if changes}


def lose_content(path, changes, random):
    """Rewrites a file as the disk may have it; says how."""
    mode = random.choice(("dropped", "kept", "prefix", "torn", "torn"))
    count = len(changes)
    if mode == "kept":
        return mode
    with open(path, "rb") as file:
        content = bytearray(file.read())
    sizes = [change.b for change in changes] + [len(content)]
    content.extend(bytes(max(sizes) - len(content)))
    cuts = {}
    common = {"dropped": 0, "prefix": random.randint(0, count)}.get(mode)

    def cut(sector):
        if common is not None:
            return common
        if sector not in cuts:
            cuts[sector] = random.randint(0, count)
        return cuts[sector]

    for index in range(count - 1, -1, -1):
        change = changes[index]
        if change.kind != b"w":
            continue
        # What was there, and nothing where the file was made longer.
        before = change.text + bytes(max(0, sizes[index + 1] - max(change.a + len(change.text), change.b)))
        begin, end = change.a, change.a + len(before)
        for sector in range(begin // SECTOR, (end + SECTOR - 1) // SECTOR):
            if cut(sector) <= index:
                low, high = max(begin, sector * SECTOR), min(end, (sector + 1) * SECTOR)
                content[low:high] = before[low - begin:high - begin]
    size = sizes[common if common is not None else random.randint(0, count)]
    with open(path, "r+b") as file:
        file.write(content[:size])
        file.truncate(size)
    return mode


def take_back(change, grave):
    """Undoes one change of a folder's entries; a process that died may not have come to it."""
    name = change.text.decode()
    buried = f"{grave}/{change.a}"
    if change.kind == b"c":
        if os.path.lexists(name):
            os.unlink(name)
    elif change.kind == b"m":
        shutil.rmtree(name, ignore_errors=True)
    elif change.kind == b"d":
        os.makedirs(name, exist_ok=True)
    elif change.kind == b"u":
        if not os.path.lexists(name) and os.path.isdir(os.path.dirname(name)):
            os.link(buried, name)
    elif change.kind == b"r":
        before, after = name.split("\0")
        if os.path.lexists(before) or not os.path.lexists(after):
            return
        os.rename(after, before)
        if change.a:
            os.link(buried, after)


def fail(data, grave, journal, random):
    """The power has failed under a node that is dead already. Returns how many changes were lost, as a text."""
    pending = unsynced(journal)
    paths = {}
    for root in (data, grave):
        for folder, _, names in os.walk(root):
            paths[os.stat(folder).st_ino] = folder
            for name in names:
                paths[os.lstat(f"{folder}/{name}").st_ino] = f"{folder}/{name}"
    modes, entries = [], []
    for inode, changes in pending.items():
        if changes[0].kind in (b"w", b"s"):
            if inode in paths:
                modes.append(lose_content(paths[inode], changes, random))
        elif random.random() < 0.6:
            entries += changes[random.randint(0, len(changes)):]
    for change in sorted(entries, key=lambda change: -change.order):
        take_back(change, grave)
    forget(grave, journal)
    told = ", ".join(f"{modes.count(mode)} {mode}" for mode in sorted(set(modes)))
    return f"unsynced files: {told or 'none'}; folder entries lost: {len(entries)}"


def forget(grave, journal):
    """What is on the disk now stays there."""
    shutil.rmtree(grave, ignore_errors=True)
    os.makedirs(grave)
    with open(journal, "wb"):
        pass
