"""Made-up archives of label maps, laid out as the official ones."""

import io
import zipfile

import cv2
import h5py
import numpy as np
from scipy.io import savemat

from pipeline.declaration.label_sets import label_set

STUFF = label_set("coco_stuff")
SHAPE = (12, 16)
TRAIN, TEST = (
    ("COCO_train2014_000000000009", "COCO_train2014_000000000025", "COCO_train2014_000000000030"),
    ("COCO_train2014_000000000034",),
)
DROPPED = "COCO_train2014_000000003518"


def label_map(number, classes=171, shape=SHAPE):
    """A map with first and last class, a rectangle of another one, and a corner without label."""
    found = np.full(shape, number % classes, np.uint8)
    found[2:7, 3:9] = (37 * number + 90) % classes
    found[0], found[-1], found[:3, :3] = 0, classes - 1, 255
    return found


def jpeg(shape=SHAPE):
    return cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8))[1].tobytes()


def stuff_mat(labels, version, container=None):
    """A .mat file's bytes with the numbers of a version, in its container unless another one's is named."""
    ids = np.array([category.id for category in STUFF.categories])
    known = labels != 255
    stored = np.zeros(labels.shape, np.float64)
    stored[known] = labels[known].astype(int) + 2 if version == "1.0" else ids[labels[known]]
    stored[~known] = 1 if version == "1.0" else 0
    file = io.BytesIO()
    if (container or version) == "1.0":
        with h5py.File(file, "w", userblock_size=512) as mat:
            mat["S"] = stored.T.astype(np.uint16)
    else:
        savemat(file, {"S": stored, "names": np.array(["unlabeled"], object)})
    return file.getvalue()


def stuff_archive(path, version="1.1", train=(*TRAIN, DROPPED), test=TEST, root="", **changed):
    """Write an archive of COCO-Stuff-10K; `changed` maps members to other bytes, or to None to leave them out."""
    members = {
        "imageLists/train.txt": "\n".join(train).encode() + b"\n",
        "imageLists/test.txt": "\r\n".join(test).encode(),
    }
    for number, name in enumerate((*train, *test), 1):
        members[f"images/{name}.jpg"] = jpeg()
        members[f"annotations/{name}.mat"] = stuff_mat(label_map(number), version)
    members |= changed
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(root + name, content)
    return path


def ade_archive(path, train=(1, 2, 5149), val=(1,)):
    """Write an archive of ADE20K: numbers of its training and validation images."""
    with zipfile.ZipFile(path, "w") as archive:
        for folder, title, numbers in (("training", "train", train), ("validation", "val", val)):
            for number in numbers:
                stored = label_map(number, 150) + np.uint8(1)  # 0 is without label
                name = f"ADE_{title}_{number:08d}"
                png = cv2.imencode(".png", stored)[1].tobytes()
                archive.writestr(f"ADEChallengeData2016/images/{folder}/{name}.jpg", jpeg())
                archive.writestr(f"ADEChallengeData2016/annotations/{folder}/{name}.png", png)
        archive.writestr("ADEChallengeData2016/objectInfo150.txt", "Idx")
    return path
