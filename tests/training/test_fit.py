"""A model and images that do not fit are refused with a remedy, and the remedy works."""

import json
import re

import numpy as np
import pytest

import d2o
from d2o.data.files import write_images
from d2o.training.networks import check_fit


@pytest.fixture
def unlabelled(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "imgs.npz", images=pixels)
    return write_images(tmp_path / "imgs", [pixels])


class TestClassesWithoutLabels:
    @pytest.fixture(autouse=True)
    def refused(self, unlabelled, tiny_denoiser):
        sentence = "The model has 2 classes but imgs has no labels: sort the images into a sub-folder for each class, "
        for place in (unlabelled, unlabelled.with_suffix(".npz")):
            with pytest.raises(ValueError, match=re.escape(sentence)):
                check_fit(tiny_denoiser(classes=2), d2o.images(place))

    def test_a_sub_folder_for_each_class(self, unlabelled, tiny_denoiser):
        for i, file in enumerate(sorted(unlabelled.iterdir())):
            (unlabelled / "ab"[i % 2]).mkdir(exist_ok=True)
            file.rename(unlabelled / "ab"[i % 2] / file.name)
        check_fit(tiny_denoiser(classes=2), d2o.images(unlabelled))

    def test_a_list_of_labels(self, unlabelled, tiny_denoiser):
        labels = [[file.name, i % 2] for i, file in enumerate(sorted(unlabelled.iterdir()))]
        (unlabelled / "dataset.json").write_text(json.dumps({"labels": labels}))
        check_fit(tiny_denoiser(classes=2), d2o.images(unlabelled))

    def test_an_array_of_labels(self, unlabelled, tiny_denoiser):
        file = unlabelled.with_suffix(".npz")
        np.savez(file, **np.load(file), labels=np.arange(6) % 2)
        check_fit(tiny_denoiser(classes=2), d2o.images(file))

    def test_a_model_without_classes(self, unlabelled, tiny_denoiser):
        check_fit(tiny_denoiser(), d2o.images(unlabelled))
