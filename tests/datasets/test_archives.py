import contextlib
import errno
import hashlib
import io
import re
import stat
import threading
import time
import zipfile
from collections import namedtuple

import pytest

from pipeline.datasets import archives, downloads
from pipeline.datasets.archives import Archive, obtain, unpack
from pipeline.errors import ExperimentError

from .faulty_server import SILENCE, Faults, serve

CONTENT = bytes(range(256)) * 4096  # 1 MiB
ARCHIVE = Archive(
    "zips/train2017.zip",
    len(CONTENT),
    {"sha256": hashlib.sha256(CONTENT).hexdigest(), "md5": hashlib.md5(CONTENT).hexdigest()},
)
ANY = re.compile(r".+")


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(downloads, "BACKOFF", 0.001)
    monkeypatch.setattr(downloads, "CHUNK", 1 << 14)
    monkeypatch.setattr(downloads, "TIMEOUT", (1, SILENCE / 4))


def download(folder, faults=None, archive=ARCHIVE, content=CONTENT):
    """Download from a faulty server. Gives the path and the Range headers the server saw."""
    with serve({archive.name: content}, faults) as (url, faults):
        return obtain_one(url, folder, archive), faults.requests


def obtain_one(base_url, folder, archive=ARCHIVE):
    [(got, path)] = obtain(base_url, [archive], folder)
    assert got is archive
    return path


def put_part(folder, content):
    part = folder / "zips" / "train2017.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "faults",
    [
        Faults(),
        Faults(ranges=False),
        Faults(unavailable=3),
        Faults(drop_after=[1000, 50_000, 300_000]),
        Faults(drop_after=[0, 0, 0]),
        Faults(drop_after=[1000, 50_000, 300_000], ranges=False),
        Faults(drop_after=[20_000] * 20),
        Faults(stall=2),
        Faults(unavailable=2, drop_after=[20_000], ranges=False),
    ],
    ids=[
        "good",
        "no ranges",
        "503",
        "drops",
        "empty answers",
        "drops, no ranges",
        "drops often",
        "stalls",
        "all at once",
    ],
)
def test_a_download_ends_in_the_verified_file(tmp_path, faults):
    path, _ = download(tmp_path, faults)
    assert path.read_bytes() == CONTENT
    assert files(tmp_path) == ["zips/train2017.zip"]


def test_a_partial_download_is_continued(tmp_path):
    put_part(tmp_path, CONTENT[:700_000])
    path, requests = download(tmp_path)
    assert requests == ["bytes=700000-"]
    assert path.read_bytes() == CONTENT


def test_a_partial_download_begins_again_without_ranges(tmp_path):
    put_part(tmp_path, CONTENT[:700_000])
    path, requests = download(tmp_path, Faults(ranges=False))
    assert path.read_bytes() == CONTENT


def test_a_complete_part_is_only_verified(tmp_path):
    put_part(tmp_path, CONTENT)
    path, requests = download(tmp_path)
    assert requests == [] and path.read_bytes() == CONTENT


def test_a_finished_download_is_used_without_a_request(tmp_path):
    download(tmp_path)
    path, requests = download(tmp_path)
    assert requests == [] and path.read_bytes() == CONTENT


WRONG = b"x" + CONTENT[1:]


@pytest.mark.parametrize(
    "content, kept, message",
    [
        (
            WRONG,
            ["zips/train2017.zip.rejected"],
            f"train2017.zip: expected sha256 {ARCHIVE.checksums['sha256']}, got {hashlib.sha256(WRONG).hexdigest()}; "
            "kept as train2017.zip.rejected; either the file is damaged or "
            "pipeline/experiments/datasets.yaml declares a wrong value for zips/train2017.zip: run "
            "`python -m stages.download` again, which fetches another one, or correct the entry "
            "and run it again, and it takes the one kept",
        ),
        (
            CONTENT + b"more",
            [],
            "the server sends more than the expected 1048576 bytes; run `python -m stages.download` again, or correct "
            "bytes of the entry in pipeline/experiments/datasets.yaml",
        ),
    ],
    ids=["wrong bytes", "too long"],
)
def test_a_wrong_file_never_gets_the_name(tmp_path, content, kept, message):
    with pytest.raises(ExperimentError) as caught:
        download(tmp_path, content=content)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert files(tmp_path) == kept
    path, _ = download(tmp_path)
    assert path.read_bytes() == CONTENT, "what is printed works: the next run fetches another one"


def test_a_rejected_file_is_taken_once_the_declared_sum_is_corrected(tmp_path):
    wrong = ARCHIVE._replace(checksums={"sha256": "0" * 64})
    with pytest.raises(ExperimentError, match="expected sha256 0{64}"):
        download(tmp_path, archive=wrong)
    path, requests = download(tmp_path)
    assert path.read_bytes() == CONTENT and requests == [] and files(tmp_path) == ["zips/train2017.zip"]


@pytest.mark.parametrize(
    "faults, reason",
    [
        (Faults(status=404), "404 Client Error"),
        (Faults(status=403), "403 Client Error"),
        (Faults(unavailable=99), "too many 503 error responses"),
        (Faults(drop_after=[0] * 99), "the answer ended after 0 of 1048576 bytes"),
        (Faults(drop_after=[20_000] * 99, ranges=False), "ended after 16384 of"),
        (Faults(shorten=1000), "the answer ended after"),
        (Faults(shorten=1000, ranges=False), "ended after 1047576 of"),
    ],
    ids=[
        "404",
        "403",
        "503 for ever",
        "no byte ever",
        "never further",
        "short file",
        "short file, no ranges",
    ],
)
def test_a_hopeless_download_says_what_to_bring_where(tmp_path, faults, reason):
    with pytest.raises(ExperimentError) as caught:
        download(tmp_path, faults)
    text = str(caught.value)
    assert "cannot download from http://127.0.0.1" in text and reason in text and "\n" not in text
    checksums = ", ".join(" ".join(item) for item in ARCHIVE.checksums.items())
    assert text.endswith(f"or bring {tmp_path}/zips/train2017.zip (1048576 bytes, {checksums})")
    assert "zips/train2017.zip" not in files(tmp_path)


def test_no_server(tmp_path):
    with serve({}) as (url, _):
        pass
    with pytest.raises(ExperimentError, match="cannot download .*Connection refused.* or bring /"):
        obtain_one(url, tmp_path)


def test_a_file_that_was_brought_is_verified_and_kept(tmp_path):
    put_part(tmp_path, CONTENT[:-1]).rename(tmp_path / "zips" / "train2017.zip")
    with pytest.raises(
        ExperimentError, match="train2017.zip: expected 1048576 bytes, got 1048575; kept as train2017.zip.rejected"
    ):
        download(tmp_path)
    assert (tmp_path / "zips" / "train2017.zip.rejected").read_bytes() == CONTENT[:-1]
    assert download(tmp_path)[0].read_bytes() == CONTENT


@pytest.mark.parametrize("prefix", ["file://", ""])
def test_local_archives_are_used_in_place(tmp_path, prefix):
    source, elsewhere = tmp_path / "mirror of coco", tmp_path / "downloads"
    put_part(source, CONTENT).rename(source / ARCHIVE.name)
    assert obtain_one(f"{prefix}{source}".replace(" ", "%20" if prefix else " "), elsewhere) == source / ARCHIVE.name
    assert not elsewhere.exists()
    (source / ARCHIVE.name).write_bytes(WRONG)
    with pytest.raises(ExperimentError, match="the file is damaged or .*: replace the file or correct the entry"):
        obtain_one(str(source), elsewhere)
    assert (source / ARCHIVE.name).exists()
    with pytest.raises(ExperimentError, match="archive .*nowhere.* is missing; put it there or change base_url"):
        obtain_one(str(tmp_path / "nowhere"), elsewhere)


def test_no_space(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(1000))
    with pytest.raises(
        ExperimentError, match="unpacking zips/train2017.zip needs 2.10MB, .* has 1.00kB free; .* CONTRASTMASK_HOME"
    ):
        download(tmp_path)


def test_the_space_for_everything_is_checked_before_the_first_byte(tmp_path, monkeypatch):
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(int(3.5 * len(CONTENT))))
    both = [ARCHIVE._replace(name="a.zip"), ARCHIVE._replace(name="b.zip")]
    with serve({"a.zip": CONTENT, "b.zip": CONTENT}) as (url, faults):
        with pytest.raises(ExperimentError, match="downloading and unpacking a.zip, b.zip needs 4.19MB"):
            list(obtain(url, both, tmp_path))
        assert faults.requests == []
        (tmp_path / "a.zip").write_bytes(CONTENT)  # one less to download: just enough
        assert len(list(obtain(url, both, tmp_path))) == 2


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads, "_request_rest", full)
    with pytest.raises(ExperimentError, match="cannot write .*train2017.zip.part: No space left on device; free some"):
        download(tmp_path)


def test_downloads_run_side_by_side(tmp_path):
    together = threading.Barrier(3)
    three = [ARCHIVE._replace(name=f"{name}.zip") for name in "abc"]
    with serve({archive.name: CONTENT for archive in three}, Faults(before=lambda: together.wait(10))) as (url, _):
        assert sorted(archive.name for archive, _ in obtain(url, three, tmp_path)) == ["a.zip", "b.zip", "c.zip"]


def test_without_network_the_message_lists_every_file_to_bring(tmp_path):
    three = [ARCHIVE._replace(name=f"zips/{name}.zip") for name in "abc"]
    (tmp_path / "zips").mkdir()
    (tmp_path / "zips" / "b.zip").write_bytes(CONTENT)  # has been brought
    with serve({}) as (url, _):
        pass
    with pytest.raises(ExperimentError) as caught:
        list(obtain(url, three, tmp_path))
    text = str(caught.value)
    assert text.startswith(f"cannot download from {url}: zips/a.zip, zips/c.zip (") and "\n" not in text
    for name in "ac":
        assert f"{tmp_path}/zips/{name}.zip (1048576 bytes, sha256 {ARCHIVE.checksums['sha256']}, md5 " in text
    assert "b.zip" not in text


def test_different_failures_are_all_told(tmp_path):
    wrong = ARCHIVE._replace(name="wrong.zip")
    with serve({"wrong.zip": WRONG, "good.zip": CONTENT}) as (url, _):
        got = []
        with pytest.raises(ExperimentError) as caught:
            got.extend(a.name for a, _ in obtain(url, [ARCHIVE, wrong, ARCHIVE._replace(name="good.zip")], tmp_path))
            raise AssertionError(got)
    text = str(caught.value)
    assert "wrong.zip: expected sha256" in text and "404 Client Error" in text and "wrong.zip (1048576" not in text
    assert files(tmp_path) == ["good.zip", "wrong.zip.rejected"]


def test_closing_stops_what_is_under_way(tmp_path):
    both = [ARCHIVE._replace(name="quick.zip"), ARCHIVE._replace(name="slow.zip")]
    with serve({"quick.zip": CONTENT, "slow.zip": CONTENT}, Faults(drip={"slow.zip": 0.02})) as (url, _):
        with contextlib.closing(obtain(url, both, tmp_path)) as complete:
            assert next(complete)[0].name == "quick.zip"
            start = time.monotonic()
        assert time.monotonic() - start < 1
    assert "slow.zip" not in files(tmp_path)


def test_another_range_than_asked_for_is_not_appended(tmp_path):
    put_part(tmp_path, CONTENT[:700_000])
    path, requests = download(tmp_path, Faults(script={ARCHIVE.name: ["wrong range"]}))
    assert path.read_bytes() == CONTENT and requests == ["bytes=700000-", None]


def write_zip(path, members):
    """Write a zip of `(ZipInfo or name, bytes)` pairs."""
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


def test_unpacks_wanted_members_beside_what_is_there(tmp_path):
    path = write_zip(
        tmp_path / "a.zip",
        [("train2017/", b""), ("train2017/1.jpg", b"one"), ("captions.json", b"not wanted")],
    )
    (tmp_path / "images" / "val2017").mkdir(parents=True)
    (tmp_path / "images" / "val2017" / "2.jpg").write_bytes(b"two")
    unpack(path, re.compile(r"train2017/[^/]+"), tmp_path / "images")
    assert files(tmp_path / "images") == ["train2017/1.jpg", "val2017/2.jpg"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zip", "images"]


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "member, message",
    [
        ("../evil.txt", r"member '../evil.txt' leads outside the target"),
        ("train2017/../../evil.txt", "leads outside"),
        ("/evil.txt", "leads outside"),
        ("C:/evil.txt", "leads outside"),
        (link("train2017"), "member 'train2017' is a link"),
    ],
)
def test_a_member_that_could_escape_refuses_the_archive(tmp_path, member, message):
    path = write_zip(tmp_path / "a.zip", [("train2017/1.jpg", b"one"), (member, b"/etc")])
    with pytest.raises(ExperimentError, match=message):
        unpack(path, ANY, tmp_path / "in" / "images")
    assert files(tmp_path) == ["a.zip"]


def test_backslashes_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", [("train2017_.._.._evil.txt", b"one")])
    path.write_bytes(path.read_bytes().replace(b"train2017_.._.._evil", b"train2017\\..\\..\\evil"))
    with pytest.raises(ExperimentError, match="leads outside"):
        unpack(path, ANY, tmp_path / "images")


def damaged_archives():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train2017/1.jpg", bytes(100))
        archive.writestr("train2017/2.jpg", CONTENT)
    content = stream.getvalue()
    middle = content.index(b"train2017/2.jpg") + 500
    yield (
        "flipped bits",
        content[:middle] + bytes(byte ^ 255 for byte in content[middle : middle + 40]) + content[middle + 40 :],
    )
    yield "cut", content[: len(content) // 2]
    yield "empty", b""


@pytest.mark.parametrize("content", [c for _, c in damaged_archives()], ids=[name for name, _ in damaged_archives()])
def test_a_damaged_archive_leaves_nothing(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ExperimentError, match="damaged archive .*; bring a whole one and declare"):
        unpack(tmp_path / "a.zip", ANY, tmp_path / "images")
    assert files(tmp_path) == ["a.zip"]


def test_an_archive_of_something_else(tmp_path):
    path = write_zip(tmp_path / "a.zip", [("readme.txt", b"")])
    with pytest.raises(ExperimentError, match="holds none of the expected files"):
        unpack(path, re.compile("train2017/.+"), tmp_path / "images")
