"""The demonstration's scanner: a pynetdicom SCU that sends a series by C-STORE."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from pydicom import dcmread
from pynetdicom import AE


def send(instances: Sequence[bytes], host: str, port: int, calling_ae: str, called_ae: str = "VIGIE") -> list[int]:
    """Store Part 10 files over one association; the status of each C-STORE (0x0000 is success).

    ConnectionError where the association is not accepted.
    """
    datasets = [dcmread(BytesIO(content)) for content in instances]
    entity = AE(ae_title=calling_ae)
    for sop_class, syntax in {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets}:
        entity.add_requested_context(sop_class, syntax)
    association = entity.associate(host, port, ae_title=called_ae)
    if not association.is_established:
        raise ConnectionError("the association was not accepted")
    try:
        return [int(association.send_c_store(dataset).Status) for dataset in datasets]
    finally:
        association.release()


def pixels(instances: Sequence[bytes], sop_instance_uid: str) -> bytes:
    """The pixel data that was sent under this UID; KeyError where none was."""
    for content in instances:
        dataset = dcmread(BytesIO(content))
        if dataset.SOPInstanceUID == sop_instance_uid:
            return bytes(dataset.PixelData)
    raise KeyError("no such instance was sent")
