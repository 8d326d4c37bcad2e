import pytest

from pipeline.datasets.annotations import listed_image_sizes, read_instances
from pipeline.errors import ExperimentError

from .conftest import COCO_SET


def remove(section, field):
    def change(content):
        del content[section][1][field]

    return change


def put(section, position, **fields):
    def change(content):
        content[section][position] |= fields

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: [1, 2], "not COCO format: a list where an object is due"),
        (lambda c: {"images": [], "annotations": []}, "not COCO format: no list 'categories'"),
        (lambda c: {**c, "annotations": {}}, "not COCO format: no list 'annotations'"),
        (remove("annotations", "bbox"), "annotations[1] has no 'bbox'"),
        (remove("annotations", "area"), "annotations[1] has no 'area'"),
        (remove("images", "width"), "images[1] has no 'width'"),
        (lambda c: {**c, "images": [7]}, "images[0] has no 'id'"),
        (put("annotations", 3, bbox=[1, 2, 3]), "bbox is [1, 2, 3], valid: four numbers x, y, width, height"),
        (put("annotations", 3, bbox=[1, 2, 3, None]), "bbox is [1, 2, 3, None]"),
        (put("annotations", 3, area="large"), "area is 'large', valid: a number"),
        (put("annotations", 3, image_id=5_000_000), "unknown image_id 5000000"),
        (put("annotations", 3, category_id=12), "unknown category_id 12"),
        (put("categories", 2, name="automobile"), "category 3 'automobile' where COCO has 3 'car'"),
        (put("categories", 79, id=91), "category 91 'toothbrush' where COCO has 90 'toothbrush'"),
        (
            lambda c: {**c, "categories": c["categories"][:79]},
            "lists 79 categories; all of COCO's 80 are needed",
        ),
        (lambda c: {**c, "images": c["images"][:1] + c["images"]}, "images has the id 1 twice"),
        (
            lambda c: {**c, "annotations": c["annotations"][:1] + c["annotations"]},
            "annotations has the id 10 twice",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(edited, change, message):
    path = edited(change)
    with pytest.raises(ExperimentError) as caught:
        read_instances(path, COCO_SET)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and message in text and "\n" not in text


@pytest.mark.parametrize("content", [b"", b"{", b'{"images": [', b"\xff\xd8\xff\xe0 a picture", b"[" * 100_000])
def test_not_json(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    with pytest.raises(ExperimentError, match="not (a JSON file|UTF-8) .*, then run `python -m stages.download`"):
        read_instances(path, COCO_SET)


def test_missing_file(tmp_path):
    with pytest.raises(
        ExperimentError, match="annotation file .*nowhere.json is missing; run `python -m stages.download`"
    ):
        read_instances(tmp_path / "nowhere.json", COCO_SET)


def test_missing_and_empty_images(generated_root, train_annotations, tmp_path):
    names = []
    read_instances(train_annotations, COCO_SET, lambda images, _: names.extend(image["file_name"] for image in images))
    folder = tmp_path / "train2017"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes((generated_root / "train2017" / name).read_bytes())
    assert len(listed_image_sizes(train_annotations, names, folder)) == 12
    (folder / "000000000003.png").write_bytes(b"")
    with pytest.raises(
        ExperimentError, match=rf"^{train_annotations}: of the 12 images it lists 1 are empty .*first: 000000000003.png"
    ):
        listed_image_sizes(train_annotations, names, folder)
    (folder / "000000000002.png").unlink()
    (folder / "000000000005.png").unlink()
    with pytest.raises(
        ExperimentError, match=rf"^{train_annotations}: of the 12 images .* 2 are missing .*first: 000000000002.png"
    ):
        listed_image_sizes(train_annotations, names, folder)
