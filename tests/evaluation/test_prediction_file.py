"""Detections on disk: what a kill leaves is taken up, what belongs to something else is not."""

import json

import pytest

from pipeline.artifacts.detections import PredictionLines

IMAGES = [7, 3, 11, 5]
IDENTITY = {"checkpoint": "a", "code": "b"}


def records(image):
    """Two detections of every image but one."""
    one = {"image_id": image, "category_id": 1, "score": 1 / 3, "bbox": [0.1, 2, 3, 4]}
    return [] if image == 3 else [one, one | {"score": 0.25, "segmentation": {"size": [4, 5], "counts": "a]\\[,\n0"}}]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scratch" / "predictions.jsonl"


def lines_of(path, images=(), identity=IDENTITY):
    lines = PredictionLines(path, identity, IMAGES)
    for image in images:
        lines.add(image, records(image))
    return lines


@pytest.mark.parametrize("images", [IMAGES, [3], []], ids=["some", "none detected", "no image"])
def test_published_bytes_are_those_of_one_json_dump(tmp_path, path, images):
    lines = PredictionLines(path, IDENTITY, images)
    for image in images:
        lines.add(image, records(image))
    lines.publish(tmp_path / "predictions" / "seed0.json")
    everything = [record for image in images for record in records(image)]
    assert (tmp_path / "predictions" / "seed0.json").read_text() == json.dumps(everything, separators=(",", ":")) + "\n"
    assert [each.name for each in (tmp_path / "predictions").iterdir()] == ["seed0.json"]


@pytest.mark.parametrize("saved", range(5))
def test_saved_images_are_found_again(path, saved):
    lines_of(path, IMAGES[:saved]).close()
    assert lines_of(path).done == saved


@pytest.mark.parametrize("lost", [1, 2, 60])
def test_a_line_cut_short_is_dropped(tmp_path, path, lost):
    lines_of(path, IMAGES).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    lines = lines_of(path)
    assert lines.done == 3
    lines.add(5, records(5))
    lines.publish(tmp_path / "seed0.json")
    assert path.read_bytes() == whole
    assert len(json.loads((tmp_path / "seed0.json").read_text())) == 6


def test_blocks_that_were_never_written_are_dropped(path):
    lines_of(path, IMAGES[:3]).close()
    content = path.read_bytes()
    path.write_bytes(content[:-40] + b"\0" * 39 + b"\n")
    assert lines_of(path).done == 2


@pytest.mark.parametrize("identity", [{"checkpoint": "b", "code": "b"}, {}])
def test_another_identity_begins_anew(path, identity):
    lines_of(path, IMAGES).close()
    assert lines_of(path, identity=identity).done == 0
    assert path.read_text() == json.dumps(identity) + "\n"


def test_an_image_out_of_order_is_refused(path):
    lines = lines_of(path, IMAGES[:1])
    with pytest.raises(ValueError, match="image 11: the next one to save is 3"):
        lines.add(11, records(11))
    assert lines.done == 1
