"""Detections on disk: a line an image while they are made, a JSON array of COCO result records when complete.

The lines lie outside DVC, which deletes outputs when a stage starts. They begin with what the detections depend on;
a killed inference goes on behind its last whole line, and a killed scoring finds all of them.
"""

import json
import os


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
        self.image_ids = image_ids
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a+b")
        self.done, end = self._whole_lines(json.dumps(identity, sort_keys=True).encode() + b"\n")
        self.file.truncate(end)  # a line cut short by a kill, or all of another identity
        if end == 0:
            self.file.write(json.dumps(identity, sort_keys=True).encode() + b"\n")
            self.file.flush()

    def _whole_lines(self, header):
        """Number of images that are saved whole, and where their lines end, bytes; 0, 0 for another identity."""
        self.file.seek(0)
        if self.file.readline() != header:
            return 0, 0
        end = self.file.tell()
        for done, image in enumerate(self.image_ids):
            line = self.file.readline()
            try:
                records = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:  # a power failure can leave blocks that were never written
                records = None
            if records is None or any(record["image_id"] != image for record in records):
                return done, end
            end = self.file.tell()
        return len(self.image_ids), end

    def add(self, image, records):
        """Append the records of the next image; they reach the system at once, so a kill does not lose them.

        Raises ValueError for any other image, so that nothing follows one that could not be saved.
        """
        if image != self.image_ids[self.done]:
            raise ValueError(f"image {image}: the next one to save is {self.image_ids[self.done]}")
        self.file.write(json.dumps(records, separators=(",", ":")).encode() + b"\n")
        self.file.flush()
        self.done += 1

    def publish(self, path):
        """Write all records as one JSON array under a temporary name, then rename. Memory: those of one image.

        The bytes are those of json.dumps of the whole list, compact, with a final newline.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        self.file.seek(0)
        self.file.readline()
        with temporary.open("wb") as array:
            separator = b"["
            for line in self.file:
                if records := line.strip()[1:-1]:
                    array.write(separator + records)
                    separator = b","
            array.write(b"[]\n" if separator == b"[" else b"]\n")
        os.replace(temporary, path)

    def close(self):
        self.file.close()
