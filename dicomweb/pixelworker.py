"""The process in which pixels are decoded: what a crafted image can break is this process, and it is short of memory.

It reads tasks (a line of JSON) from standard input and answers each with a line of JSON on standard output; the result
lies in the file named by the task. Its address space is limited before any library is loaded; the parent kills it when
it is late.
"""

from __future__ import annotations

import errno
import json
import resource
import sys
import unicodedata
import warnings
from pathlib import Path
from typing import Any

from resources.json import Json

NO_ROOM = "NoRoom"
"""Answer where the result could not be written: nothing is wrong with the pixels."""


def main() -> None:
    """Serve tasks until standard input ends. Argument: address space in bytes."""
    limit = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        task = json.loads(line)
        try:
            answer = _TASKS[task["task"]](task)
        except OSError as error:
            answer = {"error": NO_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else type(error).__name__}
        except Exception as error:  # noqa: BLE001 - a decoder may raise anything; the parent tells it as 406
            answer = {"error": type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _render(task: Json) -> Json:
    from pydicom import dcmread

    from dicomweb import decoding, rendering

    decoding.register()
    header = dcmread(task["path"], stop_before_pixels=True)
    frame_bytes = int(header.Rows) * int(header.Columns) * int(header.get("SamplesPerPixel", 1))
    if frame_bytes > MAX_PIXELS:
        return {"error": "TooLarge"}
    Path(task["output"]).write_bytes(rendering.picture(_pixel_source(task["path"]), header, task))
    return {"sizes": []}


def _frames(task: Json) -> Json:
    """Native little-endian bytes of frames, one after the other."""
    import numpy as np
    from pydicom.pixels.utils import pixel_array

    from dicomweb import decoding

    decoding.register()
    sizes = []
    source = _pixel_source(task["path"])
    with Path(task["output"]).open("wb") as output:
        for number in task["frames"]:
            array = pixel_array(source, index=number - 1)
            data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            output.write(data)
            sizes.append(len(data))
    return {"sizes": sizes}


def _explicit(task: Json) -> Json:
    """The whole instance in Explicit VR Little Endian (PS3.18 §8.7.3.4)."""
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRLittleEndian

    from dicomweb import decoding

    decoding.register()
    dataset = dcmread(task["path"])
    if task.get("corrected"):
        correct(dataset, task["corrected"])
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not syntax.is_deflated:
        dataset.decompress(generate_instance_uid=False)
    elif not syntax.is_little_endian:
        _to_little_endian(dataset)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(task["output"], implicit_vr=False, little_endian=True, enforce_file_format=True)
    return {"sizes": []}


def _corrected(task: Json) -> Json:
    """The instance as stored, with what people corrected (PS3.3 §C.12.1.1.9)."""
    from pydicom import dcmread

    dataset = dcmread(task["path"])
    correct(dataset, task["corrected"])
    dataset.save_as(task["output"])
    return {"sizes": []}


def correct(dataset: Any, corrected: Json) -> None:
    """As `dicomweb.corrections.over`, on a pydicom data set: whatever is not corrected keeps its bytes."""
    from pydicom.dataset import Dataset

    from dicomweb import corrections

    given = Dataset.from_json(corrected["given"])
    before = Dataset()
    for name in corrected["tags"]:
        tag = int(name, 16)
        old, new = dataset.get(tag), given.get(tag)
        if (new is None and (old is None or old.is_empty)) or (None not in (old, new) and old.value == new.value):
            continue
        before.add_new(tag, corrections.VR[name], None if old is None else old.value)
        if new is not None:
            dataset[tag] = new
        elif name in corrections.TYPE_2:
            dataset.add_new(tag, corrections.VR[name], None)
        else:
            del dataset[tag]
    if not len(before):
        return
    _encodable(dataset)
    item = Dataset()
    item.ModifiedAttributesSequence = [before]
    item.AttributeModificationDateTime = corrected["when"]
    item.ModifyingSystem = corrections.SYSTEM
    item.SourceOfPreviousValues = None
    item.ReasonForTheAttributeModification = corrected["reason"]
    dataset.OriginalAttributesSequence = [*dataset.get("OriginalAttributesSequence", []), item]


def _encodable(dataset: Any) -> None:
    """A corrected name in the data set's character set; where that has no such letters, without accents."""
    from pydicom.charset import convert_encodings

    name = str(dataset.get("PatientName", "") or "")
    declared = dataset.get("SpecificCharacterSet")
    if name.isascii():
        return
    if not declared:
        dataset.SpecificCharacterSet = "ISO_IR 192"  # what else it says is ASCII, or says nothing
        return
    for encoding in convert_encodings(declared):
        try:
            name.encode(encoding)
        except UnicodeError:
            continue
        return
    plain = unicodedata.normalize("NFKD", name)
    dataset.PatientName = "".join(c for c in plain if c.isascii())


def _to_little_endian(dataset: Any) -> None:
    """Every element is decoded and will be encoded anew; words inside OW stay as they are, so they are swapped here."""
    from dicomweb.reader import WIDTHS, swapped

    for element in dataset.iterall():
        if element.VR in WIDTHS and isinstance(element.value, bytes):
            element.value = swapped(element.value, element.VR)
    dataset.set_original_encoding(False, True, dataset.original_character_set)


def _pixel_source(path: str) -> Any:
    """What `pixel_array` reads frame by frame; a deflated data set (checked when it came) is read whole."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    if read_file_meta_info(path).get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99":
        return dcmread(path)
    return path


MAX_PIXELS = 512 * 1024 * 1024
_TASKS = {"render": _render, "frames": _frames, "explicit": _explicit, "corrected": _corrected}

if __name__ == "__main__":
    main()
