"""What the audit record of a write says of the version that it wrote: an HMAC-SHA-256 under the version's own salt.

The salt is random, and lies beside the version: where a version is erased, its salt goes with it, and the digest in
the log tells nothing of what it was. The digest is over names, not over the numbers that tables have for them: type,
owner and audience stay what they are in a database that was laid again.

The text that is hashed is `FORMAT` and the fields in order, each a netstring (``length:bytes,``), so that no two
versions have the same: type, id, version, transaction, instant in µs, deleted (0 or 1), method, owner, number of
organisations in the audience, each of them in order of code points, ids of the patients by spaces, content.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256

FORMAT = "vigie-version/1"
FORMAT_OF_ROW = "vigie-row/1"
SALT_BYTES = 16


def new_salt() -> bytes:
    """A salt for one version."""
    return os.urandom(SALT_BYTES)


def digest(
    salt: bytes, *, type: str, id: str, version: int, tx: int, at_us: int, deleted: bool, method: str, owner: str,
    audience: Iterable[str], patients: str, content: bytes,
) -> str:
    """The digest in hexadecimal digits. `patients` as the column holds them; `content` empty for a deletion."""
    members = sorted(audience)
    fields = [
        FORMAT, type, id, str(version), str(tx), str(at_us), "1" if deleted else "0", method, owner,
        str(len(members)), *members, patients,
    ]  # fmt: skip
    text = b"".join([b"%d:%s," % (len(one), one) for one in map(_bytes, fields)])
    return hmac.digest(salt, b"%s%d:%s," % (text, len(content), content), "sha256").hex()


def of_row(table: str, values: Mapping[str, object]) -> str:
    """SHA-256 of a row of a registry, in hexadecimal digits: nothing in it is anybody's secret."""
    fields = [f"{FORMAT_OF_ROW}/{table}"]
    for name in sorted(values):
        value = values[name]
        # Engines differ in what a boolean is.
        fields += [name, "" if value is None else "=" + str(int(value) if isinstance(value, bool) else value)]
    return sha256(b"".join([b"%d:%s," % (len(one), one) for one in map(_bytes, fields)])).hexdigest()


def _bytes(text: str) -> bytes:
    """As UTF-8. What was no text when it was read (a damaged row) is hashed as the bytes that it was."""
    return text.encode("utf-8", "surrogateescape")


def reference(type: str, id: str, version: int) -> str:
    """``Type/id/_history/n``: what the log calls a version."""
    return f"{type}/{id}/_history/{version}"
