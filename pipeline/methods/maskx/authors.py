"""What the authors of Mask^X R-CNN trained with where it is not the frame of all rows."""

from pipeline.methods.shared.authors import Authors

AUTHORS = Authors(
    warmup_start=1 / 3,
    bias_rate=2.0,
    bias_decay=0.0,
    one_scale=True,
    sizes={"sampling_ratio": 2, "roi_aligned": False},
    remains="MSRA weights of ImageNet, 2000 proposals for the images of a GPU together, smooth L1 for boxes, mask "
    "targets drawn from polygons",
)
