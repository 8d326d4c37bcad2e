"""From the files of official archives to label maps: which class does a stored number mean?

COCO-Stuff-10K comes in two versions whose numbers differ, and the rule of one gives plausible wrong classes for the
other:

| version | container | `S` | unlabelled | numbers |
|---|---|---|---|---|
| 1.0 | HDF5 (MATLAB 7.3), stored transposed | 1 to 172 | 1 | position of the class + 2 |
| 1.1 | MATLAB 5 | 0 to 182 | 0 | id of the class, with gaps |

So the version is that of a file's content, never of a name, and what it holds has to agree with it: file by file
(`read_stuff`), and over all files (`Version.refuse_other`), as a few images could be of either.
"""

import io
from dataclasses import dataclass, field

import cv2
import numpy as np

from pipeline.datasets.label_maps import IGNORE
from pipeline.errors import ExperimentError

HDF5 = b"\x89HDF\r\n\x1a\n"
HDF5_AT = (0, 512, 1024, 2048)  # where the signature may stand; MATLAB writes 512 bytes of its own before it
MATLAB5 = b"MATLAB 5.0 MAT-file"
V10, V11 = "1.0", "1.1"
UNLABELLED = {V10: 1, V11: 0}
HIGHEST = {V10: 172, V11: 182}


@dataclass
class Version:
    """What the files of an archive have in common.

    Attributes:
        name: `1.0` or `1.1`; None before the first file.
        numbers: all that came by.
    """

    name: str | None = None
    numbers: set = field(default_factory=set)

    def add(self, path, name, numbers):
        """Take in a file. Raises ExperimentError if it is of another version than those before."""
        if self.name not in (None, name):
            raise ExperimentError(
                f"{path}: a file of COCO-Stuff-10K {name} among those of {self.name}; unpack one of the archives alone"
            )
        self.name = name
        self.numbers |= numbers

    def refuse_other(self, folder):
        """Raise ExperimentError if container and numbers are not of the same version, as far as all files tell."""
        if self.name == V11 and self.numbers and 0 not in self.numbers and max(self.numbers) <= HIGHEST[V10]:
            raise ExperimentError(
                f"{folder}: MATLAB 5 files as of COCO-Stuff-10K 1.1, but no pixel is 0 (its unlabelled) or above 172, "
                "as in 1.0: the two cannot be told apart; bring an official archive"
            )


def version_of(content):
    """`1.0` or `1.1` by the container of a .mat file's bytes; None for another one."""
    if any(content[at : at + len(HDF5)] == HDF5 for at in HDF5_AT):
        return V10
    return V11 if content.startswith(MATLAB5) else None


def read_stuff(path, label_set, version):
    """The label map of a .mat file of COCO-Stuff-10K, of either version.

    Args:
        path: of the file.
        label_set: of the 171 classes, with COCO-Stuff's ids.
        version: `Version`, which takes in what the file tells.

    Returns:
        uint8 [H, W].

    Raises:
        ExperimentError: another container, no array `S`, numbers that its version does not have.
    """
    content = path.read_bytes()
    name = version_of(content)
    if name is None:
        raise ExperimentError(
            f"{path}: neither HDF5 (COCO-Stuff-10K 1.0) nor MATLAB 5 (1.1); bring an official archive"
        )
    stored = (_hdf5 if name == V10 else _matlab5)(content, path)
    if stored.ndim != 2 or not stored.size or not np.issubdtype(stored.dtype, np.number):
        raise ExperimentError(f"{path}: S is {stored.dtype} {list(stored.shape)}; valid: numbers [height, width]")
    table = _table(name, label_set)
    numbers = np.clip(stored, 0, len(table) - 1).astype(np.uint8)
    wrong = (numbers != stored) | (table[numbers] < 0)
    if wrong.any():
        raise ExperimentError(
            f"{path}: S has the value {stored[wrong][0]:g}, which COCO-Stuff-10K {name} (its container) does not have: "
            "container and numbers are of different versions; bring an official archive"
        )
    version.add(path, name, set(np.flatnonzero(np.bincount(numbers.ravel())).tolist()))
    return table[numbers].astype(np.uint8)


def _table(version, label_set):
    """Position of the class by stored number, int16 [highest + 1]; -1 for a number that is none."""
    table = np.full(HIGHEST[version] + 1, -1, np.int16)
    for position, category in enumerate(label_set.categories):
        table[position + 2 if version == V10 else category.id] = position
    table[UNLABELLED[version]] = IGNORE
    return table


def _hdf5(content, path):
    try:
        import h5py
    except ImportError:
        raise ExperimentError(f"{path}: a file of COCO-Stuff-10K 1.0, which takes h5py; run `make setup`") from None
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            return np.asarray(file["S"]).T  # MATLAB stores columns first
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise _unreadable(path, error) from None


def _matlab5(content, path):
    from scipy.io import loadmat

    try:
        return loadmat(io.BytesIO(content), variable_names=["S"])["S"]
    except Exception as error:  # a damaged file may fail in any way
        raise _unreadable(path, error) from None


def _unreadable(path, error):
    reason = " ".join(str(error).split()) or type(error).__name__
    return ExperimentError(f"{path}: no array S can be read ({reason}); bring an official archive")


def read_shifted(path, label_set, version):
    """The label map of a PNG in which 0 is unlabelled and k is the k-th class, as ADE20K has them.

    Returns uint8 [H, W]; raises ExperimentError for another image, or numbers beyond the classes. `version` is not
    used.
    """
    stored = _png(path)
    if (highest := int(stored.max())) > len(label_set):
        raise ExperimentError(
            f"{path}: has the value {highest}; valid: 0 to {len(label_set)}, the classes of {label_set.title}"
        )
    return stored - np.uint8(1)  # 0 becomes 255


def read_plain(path, label_set, version):
    """The label map of a PNG whose values are positions of classes, and 255.

    Returns uint8 [H, W]; raises ExperimentError for another image, or other numbers. `version` is not used.
    """
    stored = _png(path)
    wrong = stored[(stored >= len(label_set)) & (stored != IGNORE)]
    if wrong.size:
        raise ExperimentError(
            f"{path}: has the value {wrong[0]}; valid: 0 to {len(label_set) - 1}, the classes of {label_set.title}, "
            f"and {IGNORE} for none"
        )
    return stored


def _png(path):
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim != 2 or stored.dtype != np.uint8:
        raise ExperimentError(f"{path}: no PNG of one channel and 8 bits; bring an official archive")
    return stored
