"""The Merkle tree of RFC 6962 §2.1: roots, inclusion and consistency proofs. Pure.

A leaf is SHA-256(0x00 ‖ commitment), an inner node SHA-256(0x01 ‖ left ‖ right); a tree of n > 1 leaves splits at the
largest power of two smaller than n. The commitment hides the event behind a random salt (`commitment`): once event and
salt are purged, the leaf says nothing about them and every other proof still holds.

RFC 6962 §2.1 https://www.rfc-editor.org/rfc/rfc6962#section-2.1
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()
HASH_BYTES = 32


def commitment(seq: int, content: bytes, salt: bytes) -> bytes:
    """What the tree commits to: HMAC-SHA-256, keyed by the salt, over the position (8 bytes, big-endian) and the event.

    The position is in it, so a record that was moved disagrees with its own leaf.
    """
    return hmac.digest(salt, seq.to_bytes(8, "big") + content, "sha256")


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (RFC 6962 §2.1)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node (RFC 6962 §2.1)."""
    return sha256(b"\x01" + left + right).digest()


@dataclass(slots=True)
class Frontier:
    """The compact range [0, size): the roots of the perfect subtrees, the largest first. All that appending needs."""

    size: int
    nodes: list[bytes]

    @staticmethod
    def empty() -> Frontier:
        """The frontier of a tree without leaves."""
        return Frontier(0, [])

    @staticmethod
    def decode(size: int, data: bytes) -> Frontier:
        """Raises ValueError unless `data` holds one hash for each bit set in `size`."""
        if size < 0 or len(data) != HASH_BYTES * size.bit_count():
            raise ValueError("the frontier does not fit its size")
        return Frontier(size, [data[i:i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)])

    def encode(self) -> bytes:
        """The nodes one after the other, 32 bytes each."""
        return b"".join(self.nodes)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash: as many merges as the size has trailing ones."""
        size = self.size
        node = leaf
        while size & 1:
            node = node_hash(self.nodes.pop(), node)
            size >>= 1
        self.nodes.append(node)
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves so far (RFC 6962 §2.1)."""
        if not self.nodes:
            return EMPTY_ROOT
        root = self.nodes[-1]
        for node in reversed(self.nodes[:-1]):
            root = node_hash(node, root)
        return root


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """The ranges of leaves whose roots are PATH(index, D[size]), RFC 6962 §2.1.1, in the order of the proof."""
    if not 0 <= index < size:
        raise ValueError("no such leaf in a tree of that size")
    start, end, path = 0, size, []
    while end - start > 1:
        split = start + _split(end - start)
        if index < split:
            path.append((split, end))
            end = split
        else:
            path.append((start, split))
            start = split
    return path[::-1]


def roots(leaves: Iterable[bytes], ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The roots over ranges of leaves that do not overlap, in the order of `ranges`; the leaves are read once."""
    wanted = sorted(range(len(ranges)), key=lambda number: ranges[number])
    found = [EMPTY_ROOT] * len(ranges)
    at, frontier = 0, Frontier.empty()
    for index, leaf in enumerate(leaves):
        if at == len(wanted):
            break
        start, end = ranges[wanted[at]]
        if start <= index < end:
            frontier.append(leaf)
        if index == end - 1:
            found[wanted[at]] = frontier.root()
            at, frontier = at + 1, Frontier.empty()
    if at < len(wanted):
        raise ValueError("there are fewer leaves than that")
    return found


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `leaf` stands at `index` in the tree of `size` with `root` (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size:
        return False
    position, last, node = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and node == root


def consistency_ranges(first: int, second: int) -> list[tuple[int, int]]:
    """The ranges of leaves whose roots are PROOF(first, D[second]), RFC 6962 §2.1.2, in the order of the proof."""
    if not 0 < first <= second:
        raise ValueError("no such pair of trees")
    start, end, path, whole = 0, second, [], True
    while first != end:
        split = start + _split(end - start)
        if first <= split:
            path.append((split, end))
            end = split
        else:
            path.append((start, split))
            start, whole = split, False
    if not whole:
        path.append((start, end))
    return path[::-1]


def verify_consistency(
    first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the tree of size `second` extends the one of size `first` (RFC 9162 §2.1.4.2)."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    if not path:
        return False
    position, last = first - 1, second - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, node)
        position >>= 1
        last >>= 1
    return last == 0 and old == first_root and new == second_root


def _split(size: int) -> int:
    """The largest power of two smaller than `size` (> 1)."""
    return 1 << ((size - 1).bit_length() - 1)
