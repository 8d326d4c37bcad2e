"""Whatever an archive is, it is unpacked as it says, or refused in one line with nothing written."""

import io
import os
import re
import shutil
import stat
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.datasets import archives
from pipeline.datasets.archives import unpack
from pipeline.datasets.coco import expected, wanted
from pipeline.errors import ExperimentError

SOURCE = SimpleNamespace(subsets=("train2017", "val2017"))
WANTED, EXPECTED = wanted(SOURCE), expected(SOURCE)
IMAGE = "train2017/1.jpg"


def packed(*members, compression=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return stream.getvalue()


def info(name, mode=0, **fields):
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def patched(content, **fields):
    """A zip of one member with other values in both of its headers."""
    offsets = {"flags": (6, 8, "<H"), "method": (8, 10, "<H"), "size": (22, 24, "<L")}
    content, central = bytearray(content), content.index(b"PK\x01\x02")
    for field, value in fields.items():
        local, in_central, code = offsets[field]
        struct.pack_into(code, content, local, value)
        struct.pack_into(code, content, central + in_central, value)
    return bytes(content)


def renamed(content, old, new):
    assert len(old) == len(new) and old in content
    return content.replace(old, new)


ONE = packed((IMAGE, b"one"))
CRAFTED = {
    "twice": (packed((IMAGE, b"one"), ("train2017/2.jpg", b"two")).replace(b"2.jpg", b"1.jpg"), "stands twice"),
    "case": (packed((IMAGE, b"one"), ("train2017/1.JPG", b"two")), "differs from another one in case"),
    "case of folders": (packed(("train2017/a/1.jpg", b""), ("train2017/A/1.jpg", b"")), "differs from another one"),
    "unicode form": (packed(("train2017/\u00e9.jpg", b""), ("train2017/e\u0301.jpg", b"")), "differs from another one"),
    "encrypted": (patched(ONE, flags=1), "is encrypted"),
    "compression": (patched(ONE, method=97), "is compressed in a way (97) that Python cannot read"),
    "bad UTF-8": (patched(renamed(ONE, b"1.jpg", b"\xff.jpg"), flags=0x800), "damaged archive ('utf-8' codec"),
    "NUL in a name": (renamed(packed(("train2017/1.jpg_.txt", b"")), b"_", b"\0"), "has a name that is none"),
    "line break": (packed(("train2017/a\nb.jpg", b"")), "has a name that is none"),
    "dot": (packed(("train2017/./1.jpg", b"")), "has a name that is none"),
    "empty part": (packed(("train2017//1.jpg", b"")), "has a name that is none"),
    "long name": (packed((f"train2017/{'n' * 300}.jpg", b"")), "has a name of more than 255 bytes"),
    "folder with a suffix": (packed((info(IMAGE, stat.S_IFDIR | 0o755), b"")), "is a folder where a file is due"),
    "file and folder": (packed((IMAGE, b""), (f"{IMAGE}/2.jpg", b"")), "is a folder where a file is due"),
    "only a folder": (packed((f"{IMAGE}/", b"")), "holds none of the expected files, which are images below"),
    "FIFO": (packed((info(IMAGE, stat.S_IFIFO | 0o644), b"")), "is no file"),
    "device": (packed((info("train2017/dev", stat.S_IFCHR | 0o644), b"")), "is no file"),
    "socket": (packed((info(IMAGE, stat.S_IFSOCK | 0o644), b"")), "is no file"),
    "link": (packed((info(IMAGE, stat.S_IFLNK | 0o777), b"/etc/passwd")), "is a link"),
    "parent": (packed((IMAGE, b""), ("train2017/../../evil.jpg", b"")), "leads outside"),
    "absolute": (packed((IMAGE, b""), ("/tmp/evil.jpg", b"")), "leads outside"),
    "drive": (packed((IMAGE, b""), ("C:/evil.jpg", b"")), "leads outside"),
    "wrapped": (packed((f"coco/{IMAGE}", b"")), "it holds e.g. 'coco/train2017/1.jpg'"),
    "cut": (packed((IMAGE, bytes(1000)))[:-30], "damaged archive (File is not a zip file)"),
    "cut member": (packed((IMAGE, bytes(1000)))[100:], "damaged archive ("),
    "says more": (patched(packed((IMAGE, b"one")), size=1000), "damaged archive ("),
    "no zip": (b"<html>", "damaged archive (File is not a zip file)"),
    "empty": (b"", "damaged archive (File is not a zip file)"),
}


def everything(folder):
    return sorted((str(path), path.is_file() and path.read_bytes()) for path in folder.rglob("*"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_archive_is_refused_in_one_line(tmp_path, kind):
    content, message = CRAFTED[kind]
    (tmp_path / "a.zip").write_bytes(content)
    (tmp_path / "in" / "images" / "train2017").mkdir(parents=True)
    (tmp_path / "in" / "images" / "train2017" / "1.jpg").write_bytes(b"was here")
    before = everything(tmp_path)
    with pytest.raises(ExperimentError) as caught:
        unpack(tmp_path / "a.zip", WANTED, tmp_path / "in" / "images", EXPECTED)
    assert message in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert everything(tmp_path) == before


def test_a_bomb_is_refused_by_what_it_declares(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(packed((IMAGE, bytes(1 << 20)), compression=zipfile.ZIP_DEFLATED))
    monkeypatch.setattr(archives, "SWELLING_FREE", 1 << 10)
    with pytest.raises(ExperimentError, match="would unpack to 1048576 bytes, [0-9]+ times its size, which no images"):
        unpack(tmp_path / "a.zip", WANTED, tmp_path / "images")
    (tmp_path / "a.zip").write_bytes(patched(ONE, size=(1 << 32) - 2))
    with pytest.raises(ExperimentError, match="would unpack to 4294967294 bytes"):
        unpack(tmp_path / "a.zip", WANTED, tmp_path / "images")
    assert sorted(os.listdir(tmp_path)) == ["a.zip"]


@pytest.mark.parametrize(
    "kind",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
    ids=["stored", "deflated", "bzip2", "lzma"],
)
def test_every_image_ending_and_folder_is_unpacked(tmp_path, kind):
    names = ["1.JPG", "2.jpeg", "3.webp", "4.bmp", "5.Tiff", "6.PNG", "deep/er/7.jpg", "\u00e9.png", "a b.jpg"]
    content = packed(
        *((f"train2017/{name}", name.encode()) for name in names),
        ("train2017/labels.txt", b""),
        (info("train2017/deep/", stat.S_IFDIR | 0o755), b""),
        compression=kind,
    )
    (tmp_path / "a.zip").write_bytes(content)
    unpack(tmp_path / "a.zip", WANTED, tmp_path / "images")
    folder = tmp_path / "images" / "train2017"
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == {name: name for name in names}


def test_names_packed_on_a_mac_are_utf8_without_saying_so(tmp_path):
    (tmp_path / "a.zip").write_bytes(renamed(packed(("train2017/xx.jpg", b"one")), b"xx", "\u00e9".encode()))
    unpack(tmp_path / "a.zip", WANTED, tmp_path / "images")
    assert os.listdir(tmp_path / "images" / "train2017") == ["\u00e9.jpg"]


def test_a_folder_in_the_place_of_an_image_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(ONE)
    (tmp_path / "images" / IMAGE).mkdir(parents=True)
    with pytest.raises(ExperimentError, match="images/train2017/1.jpg is a folder where a file is due; move it away"):
        unpack(tmp_path / "a.zip", WANTED, tmp_path / "images")
    (tmp_path / "images" / IMAGE).rmdir()
    unpack(tmp_path / "a.zip", WANTED, tmp_path / "images")


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link to nowhere", "link to a device"])
def test_an_archive_that_is_no_file_is_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "a.zip"
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "link to a device" else tmp_path / "nowhere")
    declared = archives.Archive("a.zip", 5, {"md5": "0" * 32})
    with pytest.raises(ExperimentError, match=rf"{path}: a (FIFO|folder|device|link to .*) where "):
        list(archives.obtain(str(tmp_path), [declared], tmp_path / "downloads"))
    with pytest.raises(ExperimentError, match=rf"{path}: a (FIFO|folder|device|link to .*) where "):
        list(archives.obtain("http://127.0.0.1:9", [declared], tmp_path))


SAMPLE = packed(
    (IMAGE, bytes(range(200))),
    ("train2017/deep/2.png", b"two" * 50),
    ("note.txt", b"three"),
    compression=zipfile.ZIP_DEFLATED,
)
EDIT = st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255))
NAME = st.lists(
    st.sampled_from(["..", ".", "", "train2017", "a", "A", "x.jpg", "x.JPG", "\\", "~", "C:"]), min_size=1, max_size=5
).map("/".join)
MODES = (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


def check_unpacks_or_refuses(folder, content):
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    (folder / "a.zip").write_bytes(content)
    target = folder / "in" / "images"
    try:
        held = unpack(folder / "a.zip", WANTED, target, EXPECTED)
    except ExperimentError as error:
        assert "\n" not in str(error) and len(str(error)) < 700
        assert not any(path.is_file() for path in (folder / "in").rglob("*"))
        assert not [name for name in os.listdir(folder / "in") if name != "images"]
    else:
        found = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
        assert found == set(held) and all(WANTED.fullmatch(name) for name in held)
    assert sorted(os.listdir(folder)) == ["a.zip", "in"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDIT, min_size=1, max_size=4), cut=st.integers(0, len(SAMPLE)) | st.just(len(SAMPLE)))
def test_a_damaged_archive_is_unpacked_right_or_refused(tmp_path, edits, cut):
    content = bytearray(SAMPLE)
    for at, value in edits:
        content[at] = value
    check_unpacks_or_refuses(tmp_path / "x", bytes(content[:cut]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(NAME, min_size=1, max_size=4), mode=st.sampled_from(MODES))
def test_members_of_any_name_stay_inside(tmp_path, names, mode):
    check_unpacks_or_refuses(tmp_path / "x", packed(*((info(name, mode), name.encode()) for name in names)))


def test_the_pattern_takes_what_coco_holds_and_nothing_else():
    assert WANTED.fullmatch("train2017/000000000009.jpg") and WANTED.fullmatch("annotations/instances_val2017.json")
    for name in ("annotations/captions_val2017.json", "__MACOSX/train2017/._1.jpg", "test2017/1.jpg", "train2017/"):
        assert not re.fullmatch(WANTED, name), name
