"""Predict on pictures of one's own: the numbers of an evaluation, saved image by image."""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import contextlib
import gc
import hashlib
import json
from types import SimpleNamespace

from mmdet.utils import build_dp

from pipeline.artifacts import detections, locks
from pipeline.errors import ExperimentError
from pipeline.inference.loading import steps
from pipeline.tasks.instances import prediction
from pipeline.tasks.instances.packed_coco import Records
from pipeline.tasks.semantic import prediction as of_maps

JOURNAL = "predictions.jsonl"


class Pictures:
    """Pictures as a data set for inference; ids count from 1."""

    def __init__(self, pictures, detector):
        self.data_infos = Records(
            {"path": str(picture.path), "width": picture.width, "height": picture.height} for picture in pictures
        )
        self.img_ids = range(1, len(pictures) + 1)
        self.cat_ids = detector.ids
        self.steps = steps(detector.steps)

    def __len__(self):
        return len(self.data_infos)

    def __getitem__(self, index):
        return self.steps({"img_info": self.data_infos[index]})


class Scenes:
    """The same for models of label maps; ids are names."""

    def __init__(self, pictures, detector):
        images = [{"file_name": picture.name, "width": picture.width, "height": picture.height} for picture in pictures]
        self.pack, self.paths = SimpleNamespace(images=images), [str(picture.path) for picture in pictures]
        self.img_ids = [picture.name for picture in pictures]
        self.CLASSES = detector.names
        self.steps = steps(detector.steps)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, position):
        return self.steps({**self.pack.images[position], "path": self.paths[position], "position": position})


@contextlib.contextmanager
def predicted(detector, pictures, out, score, batch_size):
    """The detections or label maps of pictures, `detections.PredictionLines`; what an earlier attempt saved is not made
    again.

    Args:
        detector: models.Detector; its score threshold is set.
        pictures: list of `pictures.Picture`.
        out: folder of the results; the lines lie in it.
        score: detections of a lower score are left out; None for label maps.
        batch_size: images to predict at a time; more change scores by rounding alone.

    Raises:
        ExperimentError: the folder holds something else, or detections of other pictures, settings or another model.
    """
    identity = _identity(detector, pictures, score, batch_size)
    path = out / JOURNAL
    _require_ours(out, path, identity)
    out.mkdir(parents=True, exist_ok=True)
    dataset = (Scenes if detector.maps else Pictures)(pictures, detector)
    lock = locks.hold(out / f".{JOURNAL}.lock", f"the detections in {out}")
    with lock, contextlib.closing(detections.PredictionLines(path, identity, dataset.img_ids)) as lines:
        if lines.done < len(dataset):
            with _uncollected():
                _infer(detector, dataset, lines, score, batch_size)
        yield lines


def _infer(detector, dataset, lines, score, batch_size):
    title = f"predict {detector.title}"
    if detector.maps:
        of_maps._infer(detector.model, detector.device, dataset, lines, batch_size, title, of_maps.Inference(title))
        return
    detector.model.roi_head.test_cfg.score_thr = score
    model = build_dp(detector.model, detector.device, device_ids=range(1)).eval()
    prediction._infer(model, dataset, lines, batch_size, title)


@contextlib.contextmanager
def _uncollected():
    """Keep the garbage collector from what there is: it writes to all of it, and so takes a copy from what a worker
    shares with this process, 150 MB after some 100 images."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def records(lines):
    """The records of each image in the order of images: COCO results, or its label map. Memory: those of one."""
    with lines.path.open("rb") as file:
        file.readline()
        for line in file:
            yield json.loads(line.partition(b" ")[2])


def _identity(detector, pictures, score, batch_size):
    listed = hashlib.sha256()
    for picture in pictures:
        state = picture.path.stat()
        listed.update(json.dumps([picture.name, *picture[2:], state.st_size, state.st_mtime_ns]).encode())
    return detector.identity | {"batch": batch_size, "score": score, "images": listed.hexdigest()}


def _require_ours(out, path, identity):
    if out.exists() and not out.is_dir():
        raise ExperimentError(f"{out}: is a file; name another folder")
    if path.exists():
        with path.open("rb") as file:
            header = file.readline()
        if header.endswith(b"\n") and header != json.dumps(identity, sort_keys=True).encode() + b"\n":
            differs = _difference(header, identity)
            raise ExperimentError(f"{out}: holds predictions of other {differs}; name another folder or remove it")
    elif out.exists() and any(entry.name != f".{JOURNAL}.lock" for entry in out.iterdir()):
        raise ExperimentError(f"{out}: is not empty and no prediction of ours; name another folder")


def _difference(header, identity):
    words = {"settings": "model settings", "batch": "--batch", "score": "--score"}
    try:
        found = json.loads(header)
    except ValueError:
        found = {}
    return next((words.get(key, key) for key, value in identity.items() if found.get(key) != value), "settings")
