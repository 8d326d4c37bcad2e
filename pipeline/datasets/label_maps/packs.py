"""Label maps on disk: all maps of a subset in one file, PNG after PNG, and an index in JSON that lists them.

A data set has ten thousand maps of some kilobytes for each direction that it is split in. As files of their own they
would be what DVC, network disks and copies spend their time on. Any map is read by one `pread`, in any process.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import ExperimentError

FORMAT = 1


def encoded(label_map):
    """A map, uint8 [H, W], as the bytes of a PNG."""
    return cv2.imencode(".png", label_map, (cv2.IMWRITE_PNG_COMPRESSION, 4))[1].tobytes()


def decoded(content, what):
    """The map, uint8 [H, W], of a PNG's bytes. Raises ExperimentError, which names `what`, if it is none."""
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if found is None or found.ndim != 2 or found.dtype != np.uint8:
        raise ExperimentError(f"{what}: no label map, which is a PNG of one channel and 8 bits")
    return found


class Writer:
    """Maps of a subset, written one by one.

    Args:
        file: open binary file of the pack.
        name: of the pack, beside its index.
    """

    def __init__(self, file, name):
        self._file, self._name, self._images, self._digest = file, name, [], hashlib.sha256()

    def __len__(self):
        return len(self._images)

    def add(self, file_name, label_map, **facts):
        """Append the map, uint8 [H, W], of an image; `facts` go into its entry of the index."""
        content = encoded(label_map)
        entry = {"file_name": file_name, "width": label_map.shape[1], "height": label_map.shape[0]}
        self._images.append(entry | {"map": [self._file.tell(), len(content), zlib.crc32(content)]} | facts)
        self._file.write(content)
        self._digest.update(content)

    def index(self, **facts):
        """The index as text; `facts` stand at its top."""
        head = {"format": FORMAT, **facts, "pack": self._name, "sha256": self._digest.hexdigest()}
        lines = ",\n".join(json.dumps(image, separators=(",", ":")) for image in self._images)
        return f'{json.dumps(head)[:-1]}, "images": [\n{lines}\n]}}\n'


class Pack:
    """Maps of a subset, read one by one; may be shared by forked processes.

    Args:
        path: of the index.
        remedy: what to do if it cannot be used, for messages.

    Attributes:
        facts: what stands at the top of the index.
        remedy: what to do if it cannot be used.
        images: entries {file_name, width, height, ...} of the index.

    Raises:
        ExperimentError: index or pack is missing, or not as it was written.
    """

    def __init__(self, path, remedy="run `python -m stages.download`"):
        self.path, self.remedy = Path(path), remedy
        try:
            content = json.loads(self.path.read_bytes())
            self.images = content.pop("images")
            self.facts, self._pack = content, self.path.with_name(content["pack"])
            known = content["format"] == FORMAT
        except FileNotFoundError:
            raise ExperimentError(f"{path}: no such file; {remedy}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ExperimentError(f"{path}: no index of label maps ({type(error).__name__}); {remedy}") from None
        if not known:
            raise ExperimentError(f"{path}: format {content['format']!r}, this version reads {FORMAT}; {remedy}")
        due = sum(image["map"][1] for image in self.images)
        size = self._pack.stat().st_size if self._pack.is_file() else None
        if size != due:
            state = "no such file" if size is None else f"{size} bytes, {due} expected"
            raise ExperimentError(f"{self._pack}: {state}; {remedy}")
        self._descriptor, self._process = None, None

    def __len__(self):
        return len(self.images)

    def read(self, position):
        """The map at a position, uint8 [H, W]. Raises ExperimentError if it is not what was written."""
        if self._process != os.getpid():  # a descriptor that is not shared: `pread` keeps no position anyway
            self._descriptor, self._process = os.open(self._pack, os.O_RDONLY), os.getpid()
        image = self.images[position]
        start, size, crc = image["map"]
        content = os.pread(self._descriptor, size, start)
        what = f"{self._pack}: the map of {image['file_name']}"
        if zlib.crc32(content) != crc:
            raise ExperimentError(f"{what} is not what was written; {self.remedy}")
        found = decoded(content, what)
        if found.shape != (image["height"], image["width"]):
            raise ExperimentError(f"{what} has another size than its index says; {self.remedy}")
        return found

    def __getstate__(self):
        return self.__dict__ | {"_descriptor": None, "_process": None}
