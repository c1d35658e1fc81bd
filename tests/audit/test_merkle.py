"""The Merkle tree against the definition of RFC 6962 §2.1, written naively.

https://www.rfc-editor.org/rfc/rfc6962#section-2.1
"""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit import merkle
from tests.audit.logbook import root_of

LEAVES = [merkle.leaf_hash(f"record {i}".encode()) for i in range(301)]


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def test_the_root_is_that_of_the_definition_for_sizes_0_to_300():
    """RFC 6962 §2.1."""
    frontier = merkle.Frontier.empty()
    for size in range(301):
        assert frontier.root() == mth(LEAVES[:size]) == root_of(LEAVES, 0, size)
        assert merkle.Frontier.decode(size, frontier.encode()) == frontier
        frontier.append(LEAVES[size])


def test_the_published_roots_of_certificate_transparency_are_reproduced():
    """Known answers used by the certificate-transparency code base (merkletree tests)."""
    data = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [merkle.leaf_hash(bytes.fromhex(d)) for d in data]
    assert root_of(leaves, 0, 1).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root_of(leaves, 0, 2).hex() == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    assert root_of(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_every_inclusion_proof_holds_and_proves_nothing_else():
    """RFC 6962 §2.1.1."""
    for size in (*range(1, 40), 64, 65, 127, 300):
        root = mth(LEAVES[:size])
        for index in range(0, size, max(1, size // 20)):
            proof = merkle.roots(LEAVES, merkle.inclusion_ranges(index, size))
            assert merkle.verify_inclusion(LEAVES[index], index, size, proof, root)
            assert not merkle.verify_inclusion(LEAVES[index + 1], index, size, proof, root)
            assert not merkle.verify_inclusion(LEAVES[index], index, size, [*proof, root], root)
            if proof:
                assert not merkle.verify_inclusion(LEAVES[index], index, size, proof[:-1], root)


def test_every_consistency_proof_holds_and_proves_nothing_else():
    """RFC 6962 §2.1.2."""
    for second in (*range(1, 34), 64, 100, 300):
        new = mth(LEAVES[:second])
        for first in range(1, second + 1, max(1, second // 20)):
            old = mth(LEAVES[:first])
            proof = merkle.roots(LEAVES, merkle.consistency_ranges(first, second))
            assert merkle.verify_consistency(first, old, second, new, proof)
            assert not merkle.verify_consistency(first, LEAVES[300], second, new, proof)
            assert not merkle.verify_consistency(first, old, second, LEAVES[300], proof)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.data())
def test_one_changed_leaf_changes_the_root(index: int, size: int, data: st.DataObject):
    """RFC 6962 §2.1: the root commits to every leaf."""
    if index >= size:
        return
    altered = list(LEAVES[:size])
    altered[index] = merkle.leaf_hash(data.draw(st.binary(min_size=40, max_size=40)))
    assert root_of(altered) != root_of(LEAVES, 0, size)


@settings(deadline=None)
@given(st.integers(0, 2**40), st.binary(max_size=200), st.binary(min_size=32, max_size=32))
def test_a_commitment_depends_on_position_content_and_salt(seq: int, content: bytes, salt: bytes):
    """A moved record disagrees with its own leaf; without the salt the leaf says nothing."""
    told = merkle.commitment(seq, content, salt)
    assert told != merkle.commitment(seq + 1, content, salt)
    assert told != merkle.commitment(seq, content + b" ", salt)
    assert told != merkle.commitment(seq, content, bytes(32)) or salt == bytes(32)


@pytest.mark.parametrize(("size", "length"), [(1, 0), (3, 32), (4, 64), (-1, 0)])
def test_a_frontier_that_does_not_fit_its_size_is_refused(size: int, length: int):
    with pytest.raises(ValueError, match="frontier"):
        merkle.Frontier.decode(size, bytes(length))
