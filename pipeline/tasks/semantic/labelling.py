"""Label the training images with a trained run: the first step of re-training.

The images are those of the split, of which nothing but base masks and image labels is known here; complete maps are
not opened. A model is asked for the best of all classes, from the mean scores of several views where the profile has
`label_scales`. One with a method `labelled(views, base_maps, novel_labels)` is told what is known, and uses it.
"""

from pipeline import compat  # noqa: F401  # must precede mmcv

# isort: split

import time

import torch

from pipeline.artifacts import checkpoint, files, paths
from pipeline.artifacts.training_log import read_progress
from pipeline.datasets.label_maps.packs import Pack
from pipeline.declaration import experiments, recipe, subsets
from pipeline.tasks.semantic import prediction, pseudo
from pipeline.tasks.semantic.data import LabelMaps

TELLS_SECONDS = 5


def label(training, index):
    """Write the pseudo label maps of a trained run on its training images, see `pseudo.write`.

    They are saved image by image: killed and started again it goes on, as `prediction.predict` does, until whoever
    asked forgets what was saved.

    Args:
        training: pipeline.declaration.config.Training of the run.
        index: path; it is there only when all maps are.

    Raises:
        ExperimentError: the run is not trained or its checkpoint damaged; scores that are not finite.
    """
    content = checkpoint.of_run(training, mmap=True)
    key = paths.labelling_key(content["meta"]["fingerprint"])
    split = paths.split_train(training.dataset, training.split)
    images = Views(training, split)
    read = {"split": [split, split.with_suffix(".pack"), paths.manifest(training.dataset)]}
    identity = prediction.identified(training, recipe.of_labelling(training), read)
    predictions = paths.scratch(key) / "maps.json"
    prediction.save(training, content, key, identity, images, predictions, Labelling(training, images.pack, key))
    pseudo.write(images.pack, predictions, index)
    predictions.unlink()


class Views:
    """The training images of a run, each in the views that it is labelled by; `pack` is what training may see of them.

    An item is a list of {img, img_metas}, as the steps of inference give them.
    """

    def __init__(self, training, split):
        self.pack = Pack(split, f"run `dvc repro -s -f split_task@{training.direction}_semantic`")
        self.CLASSES = experiments.load().label_set(training.dataset).names
        folder = subsets.train(training.dataset).images
        views = training.data.get("label", [training.data["test"]])
        self._views = [LabelMaps(self.pack, folder, self.CLASSES, steps) for steps in views]

    def __len__(self):
        return len(self.pack)

    def __getitem__(self, position):
        return [view[position] for view in self._views]


class Labelling(prediction.Inference):
    """How training images are labelled.

    Args:
        training: of the run.
        hidden: `Pack` of what training may see.
        key: of the folder where it says how far it is, as a training does.
    """

    def __init__(self, training, hidden, key):
        super().__init__(f"label {training.name}")
        self.hidden, self.folder = hidden, paths.scratch(key)
        self._began, self._before, self._told = None, 0.0, 0.0

    def together(self, samples):
        return [super(Labelling, self).together(views) for views in zip(*samples, strict=True)]

    def found(self, model, positions, batch, device):
        views = [(images.to(device), metas) for images, metas in batch]
        metas = views[0][1]
        if hasattr(model, "labelled"):
            base_maps = [torch.from_numpy(self.hidden.read(position)).to(device) for position in positions]
            labels = [torch.tensor(self.hidden.images[position]["novel"], device=device) for position in positions]
            return model.labelled(views, base_maps, labels), metas
        if len(views) == 1:
            return super().found(model, positions, batch[0], device)
        return model.aug_test(*(list(each) for each in zip(*views, strict=True)), rescale=True), metas

    def told(self, done, of):
        """Say how far it is: scratch/<key>/progress.json, which counts images."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
            if earlier := read_progress(self.folder):
                self._before = earlier["seconds"] * min(1.0, done / max(earlier["iteration"], 1))
        elif now - self._told < TELLS_SECONDS and done < of:
            return
        self._told, seconds = now, self._before + now - self._began
        files.write_json(self.folder / "progress.json", {"iteration": done, "of": of, "seconds": seconds})
