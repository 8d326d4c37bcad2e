"""Detections on disk: a line an image while they are made, a JSON array of COCO result records when complete.

The lines lie outside DVC, which deletes outputs when a stage starts. They begin with what the detections depend on;
a killed inference goes on behind its last whole line, and a killed scoring finds all of them. A line is
`<digest> <records>`, the digest that of its image, its records and the digest of the line before it: whatever was
changed, cut, left out or came from elsewhere ends what is taken up, and is predicted anew.
"""

import contextlib
import hashlib
import json

from pipeline.artifacts import files, locks, paths


@contextlib.contextmanager
def saved(fingerprint, identity, image_ids):
    """The saved detections of a training, `PredictionLines`, for one process at a time."""
    path = paths.saved_predictions(fingerprint)
    with _lock(path), contextlib.closing(PredictionLines(path, identity, image_ids)) as lines:
        yield lines


def forget(fingerprint):
    """Remove the saved detections of a training, once its scores are written."""
    path = paths.saved_predictions(fingerprint)
    if path.exists():
        with _lock(path):
            path.unlink(missing_ok=True)


def _lock(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return locks.hold(f"{path}.lock", f"the detections of {path.parent.name}")


class PredictionLines:
    """Detections of one trained run, appended image by image.

    Attributes:
        done: images that are saved, from the beginning of the list of images.
    """

    def __init__(self, path, identity, image_ids):
        """Open the lines of an earlier attempt, or begin new ones if there are none of the same identity.

        Args:
            path: file of the lines; its folder is created.
            identity: JSON object of all that the detections depend on.
            image_ids: ids of the images in the order in which they are predicted.
        """
        self.image_ids, self.path = image_ids, path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a+b")
        header = json.dumps(identity, sort_keys=True).encode()
        self.last = _link("", None, header)
        self.done, end = self._whole_lines(header + b"\n")
        self.file.truncate(end)  # a line cut short by a kill, or all of another identity
        if end == 0:
            self._append(header)

    def _whole_lines(self, header):
        """Number of images that are saved whole, and where their lines end, bytes; 0, 0 for another identity."""
        self.file.seek(0)
        if self.file.readline() != header:
            return 0, 0
        end = self.file.tell()
        for done, image in enumerate(self.image_ids):
            link, _, records = self.file.readline().partition(b" ")
            expected = _link(self.last, image, records.removesuffix(b"\n"))
            if not records.endswith(b"\n") or link != expected.encode():
                return done, end
            self.last, end = expected, self.file.tell()
        return len(self.image_ids), end

    def _append(self, line):
        with files.naming(self.path):
            self.file.write(line + b"\n")
            self.file.flush()

    def add(self, image, records):
        """Append the records of the next image; they reach the system at once, so a kill does not lose them.

        Raises ValueError for any other image, so that nothing follows one that could not be saved.
        """
        if image != self.image_ids[self.done]:
            raise ValueError(f"image {image}: the next one to save is {self.image_ids[self.done]}")
        line = json.dumps(records, separators=(",", ":")).encode()
        link = _link(self.last, image, line)
        self._append(f"{link} ".encode() + line)
        self.last = link
        self.done += 1

    def publish(self, path):
        """Write all records as one JSON array under a temporary name, then rename. Memory: those of one image.

        The bytes are those of json.dumps of the whole list, compact, with a final newline.
        """
        with files.writing(path) as array:
            self.file.seek(0)
            self.file.readline()
            separator = b"["
            for line in self.file:
                if records := line.partition(b" ")[2].strip()[1:-1]:
                    array.write(separator + records)
                    separator = b","
            array.write(b"[]\n" if separator == b"[" else b"]\n")

    def close(self):
        self.file.close()


def _link(before, image, line):
    """Digest of a line and, through the one before it, of all lines so far."""
    return hashlib.sha256(f"{before} {image} ".encode() + line).hexdigest()[:16]
