"""An evaluator compares whatever can be opened, knows the floor, pairs generators by seed, and refuses nonsense."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from d2o import checkpoints
from d2o.data.datasets import open_images
from d2o.data.files import to_uint8, write_images
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.diffusion.sampling import generate
from d2o.metrics import sample, sources
from d2o.metrics.distances import frechet
from d2o.metrics.evaluation import Evaluator, evaluate
from d2o.metrics.report import report
from d2o.metrics.statistics import accumulate, features_of, save
from refusal import refused

UNFINISHED = Path(__file__).parents[1] / "fixtures" / "0.1.0" / "d2o-f"


class Noisy(nn.Module):
    """A generator that shows its noise, `gain` times; it is broken in training mode."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None, augmentation: Tensor | None) -> Tensor:
        del noise, label, augmentation
        return torch.full_like(x, torch.nan) if self.training else self.gain * x


def generator(gain: float = 1.0, classes: int = 0, shape: tuple[int, int, int] = (1, 4, 4), **fields: Any) -> Denoiser:
    return Denoiser(Noisy(gain), EDM(), shape, classes, **fields)


def noise_images(count: int, seed: int = 0, deviation: float = 63.75, channels: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.clip(random.normal(127.5, deviation, (count, 4, 4, channels)), 0, 255).round().astype(np.uint8)


def test_a_good_generator_is_near_the_floor_and_a_poor_one_is_not() -> None:
    evaluator = Evaluator(noise_images(400), features="pixels", images=200, reference_images=200)
    good, poor = evaluator(generator(1.0)), evaluator(generator(0.5), name="poor")
    assert evaluator.floor is not None
    assert good.floor == poor.floor == evaluator.floor
    assert (good.distances.images, good.distances.reference_images, evaluator.floor.images) == (200, 200, 200)
    assert good.distances.frechet < 1.5 * evaluator.floor.frechet < 5 * evaluator.floor.frechet < poor.distances.frechet
    assert good.diversity.pixel_deviation == pytest.approx(0.5, abs=0.05)
    assert good.warnings == ()
    assert any("vary less" in warning and "poor" in warning for warning in poor.warnings)


def test_the_generator_is_sampled_from_the_seeds_in_eval_mode_and_left_as_it_was() -> None:
    denoiser = generator()
    denoiser.train()
    found = Evaluator(noise_images(40), features="pixels", seeds=range(100, 120))(denoiser)
    images = [to_uint8(batch) for batch in generate(generator().eval(), list(range(100, 120)))]
    by_hand = Evaluator(noise_images(40), features="pixels", images=20)(np.concatenate(images))
    assert found.distances.frechet == pytest.approx(by_hand.distances.frechet, rel=1e-9)
    assert denoiser.training


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_no_number_depends_on_the_batch_size(batch_size: int) -> None:
    def numbers(size: int) -> dict:
        return evaluate(generator(0.8), noise_images(60), features="pixels", images=30, batch_size=size).as_dict()

    assert numbers(batch_size) == numbers(30)


def test_two_generators_are_compared_pair_by_pair() -> None:
    same = evaluate(generator(1.0), generator(1.0), features="pixels", images=50)
    assert same.pairs is not None and same.floor is not None
    assert same.pairs.pixels == same.pairs.features == 0 and same.distances.frechet < 1e-4
    assert same.floor.images == same.floor.reference_images == 25
    half = evaluate(generator(0.25), generator(0.5), features="pixels", images=50)
    assert half.pairs is not None
    assert half.pairs.pixels == pytest.approx(0.125, abs=0.01)  # gain * 0.5 * noise, by 0.5 apart in gain * 0.25
    assert half.pairs.features == pytest.approx(half.pairs.pixels * 4, rel=0.01)  # 16 pixels: root of 16
    assert half.pairs.unpaired_pixels == pytest.approx(np.hypot(0.125, 0.25), abs=0.02)


class Classes(nn.Module):
    """A generator that ignores its noise: each class is one level of grey, `gain` apart."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None, augmentation: Tensor | None) -> Tensor:
        del noise, augmentation
        return 0 * x if label is None else self.gain * label.view(-1, 1, 1, 1) + 0 * x


class Constant(EDM):
    """A preconditioning that shows what the network says, as it is."""

    def __call__(self, sigma: Tensor):
        one = torch.ones_like(sigma)
        return super().__call__(sigma)._replace(skip=0 * one, output=one, input=0 * one)


@pytest.mark.parametrize("seeds", [range(30), [5, 0, 3, 7, 11, 2, 4, 9, 20, 31, 32, 6]])
def test_other_seeds_are_of_the_same_class(seeds) -> None:
    one, other = (Denoiser(Classes(gain), Constant(), (1, 4, 4), 3) for gain in (0.1, 0.3))
    pairs = Evaluator(other, features="pixels", seeds=seeds)(one).pairs
    assert pairs is not None and pairs.pixels > 0.05  # without noise a seed of the class is as far as the own one
    assert (pairs.unpaired_pixels, pairs.unpaired_features) == (pairs.pixels, pairs.features)


def test_no_control_where_every_image_is_the_only_one_of_its_class() -> None:
    found = evaluate(generator(classes=99), generator(0.5, classes=99), features="pixels", images=12)
    assert found.pairs is not None and found.pairs.unpaired_pixels is found.pairs.unpaired_features is None
    assert "different seeds of a class -" in " ".join(report([found]).split())


def test_data_are_not_paired() -> None:
    assert evaluate(noise_images(30), noise_images(30), features="pixels", images=30).pairs is None
    assert evaluate(generator(), noise_images(30), features="pixels", images=30).pairs is None


def test_all_images_of_a_reference_count_unless_so_many_are_asked_for(tmp_path: Path) -> None:
    images, sample = noise_images(300), noise_images(40, 1)
    everything = evaluate(sample, images, features="pixels", images=40)
    assert (everything.distances.images, everything.distances.reference_images) == (40, 300)
    values = [(part / 127.5 - 1).reshape(len(part), 16) for part in (sample, images)]
    moments = [features_of(value, "pixels") for value in values]
    assert everything.distances.frechet == pytest.approx(frechet(*moments), rel=1e-4)
    save(tmp_path / "all.npz", moments[1])
    stored = evaluate(sample, tmp_path / "all.npz", images=40)
    assert stored.distances.frechet == pytest.approx(everything.distances.frechet, rel=1e-4)
    some = evaluate(sample, images, features="pixels", images=40, reference_images=90)
    assert some.distances.reference_images == 90 and some.floor == everything.floor
    for reference, few in ((images, 3), (generator(), 90), (tmp_path / "all.npz", 90)):
        with refused("reference", str(few) if few == 3 else "not a data set"):
            evaluate(sample, reference, images=40, reference_images=few)


def test_a_small_reference_gives_a_floor_of_its_halves_and_a_tiny_one_none() -> None:
    evaluation = evaluate(noise_images(30, 1), noise_images(30), features="pixels", images=20, reference_images=20)
    assert evaluation.floor is not None
    assert (evaluation.distances.reference_images, evaluation.floor.images) == (20, 15)
    assert evaluate(noise_images(30, 1), noise_images(15), features="pixels", images=15).floor is None


def test_variation_within_classes_is_known_for_generators_and_data(tmp_path: Path) -> None:
    path = tmp_path / "classes.npz"
    images = np.repeat(np.linspace(0, 255, 4).astype(np.uint8), 20)[:, None, None, None] * np.ones((4, 4, 1), np.uint8)
    np.savez(path, images=images, labels=np.repeat(np.arange(4), 20))
    evaluation = evaluate(generator(classes=2), path, features="pixels", images=40)
    assert evaluation.reference_diversity.pixel_deviation_within == 0
    assert evaluation.reference_diversity.feature_distance_within == 0
    assert (evaluation.reference_diversity.pixel_deviation or 0) > 0.5
    assert evaluation.diversity.pixel_deviation_within == pytest.approx(0.5, abs=0.1)


def test_a_collapsed_generator_is_named() -> None:
    few = np.repeat(noise_images(2, 3), 50, 0)
    evaluation = evaluate(few, noise_images(200), features="pixels", images=100)
    assert any("cover little" in warning for warning in evaluation.warnings)


def test_every_kind_of_source_gives_the_same_numbers(tmp_path: Path) -> None:
    images = noise_images(24)
    for name in ("set.zip", "set.npz", "folder"):
        write_images(tmp_path / name, [images])
    opened = open_images(tmp_path / "set.npz")
    expected = evaluate(images, images, features="pixels", images=24)
    for source in (tmp_path / "set.zip", str(tmp_path / "set.npz"), tmp_path / "folder", opened):
        found = evaluate(source, images, features="pixels", images=24)
        assert (found.distances, found.diversity) == (expected.distances, expected.diversity)


def test_a_model_is_its_file_its_shipped_name_or_its_run_finished_or_not(tmp_path: Path) -> None:
    """A run that has not ended is evaluated as a model, never by the grids of samples in its folder."""
    run = tmp_path / "run"
    shutil.copytree(UNFINISHED, run)
    write_images(run / "samples" / "00000000.png", [noise_images(64, channels=1)])
    for path in (run, str(run / "checkpoint.safetensors"), "digits-small"):
        stream = sources.open_source(path, images=9, seeds=range(9))
        assert isinstance(stream, sample.Stream)
        assert (stream.name, stream.seeds) == (Path(path).name, tuple(range(9)))
    evaluation = evaluate(run, checkpoints.load(run), features="pixels", images=16)
    assert evaluation.pairs is not None and evaluation.pairs.pixels == 0


def test_everything_is_opened_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever side is wrong, no feature network is loaded and no image is made for nothing."""
    monkeypatch.setattr("d2o.metrics.evaluation.embedding", lambda *_: pytest.fail("loaded the feature network"))
    images, few, large = noise_images(20), noise_images(3), generator(shape=(1, 8, 8))
    for wrong in (tmp_path / "absent", images.astype(int), few, large):
        for sides in ((wrong, images), (images, wrong)):
            with refused():
                evaluate(*sides, images=10)
    with refused("2.0", "classes"):
        evaluate(generator(), images, images=10, guidance=2.0)


def test_guidance_is_that_of_the_generator() -> None:
    """Guidance moves images away from those without a class: levels of grey c become s * c."""
    images, one = noise_images(30), Denoiser(Classes(0.1), Constant(), (1, 4, 4), 3)
    plain, guided = (evaluate(one, images, features="pixels", images=30, guidance=s) for s in (1.0, 2.0))
    assert guided.distances.frechet != plain.distances.frechet
    same = evaluate(Denoiser(Classes(0.2), Constant(), (1, 4, 4), 3), images, features="pixels", images=30)
    assert guided.distances.frechet == pytest.approx(same.distances.frechet, rel=1e-3)


def test_stored_statistics_stand_for_their_images(tmp_path: Path) -> None:
    images, path = noise_images(60), tmp_path / "reference.npz"
    flat = images.reshape(60, -1) / 127.5 - 1
    save(path, accumulate([flat], "pixels"))
    direct = evaluate(generator(), images, features="pixels", images=60)
    stored = evaluate(generator(), path, images=60)
    assert stored.space == "pixels" and stored.floor is None and stored.distances.kid is None
    assert stored.distances.frechet == pytest.approx(direct.distances.frechet, rel=1e-5)
    save(path, features_of(flat, "pixels"))
    kept = evaluate(generator(), path, images=60)
    assert kept.floor is not None and kept.floor.images == 30
    assert kept.distances.recall == direct.distances.recall
    assert kept.distances.kid == pytest.approx(direct.distances.kid, abs=0.01)  # in another order: other subsets
    assert evaluate(path, path).distances.frechet < 1e-4


def test_two_stored_statistics_need_no_feature_network(tmp_path: Path) -> None:
    for name, shift in (("a.npz", 0.0), ("b.npz", 2.0)):
        np.savez(tmp_path / name, mu=np.full(4, shift), sigma=np.eye(4), space="nobody has this network")
    found = evaluate(tmp_path / "a.npz", tmp_path / "b.npz")
    assert found.distances.frechet == pytest.approx(16) and (found.name, found.reference) == ("a.npz", "b.npz")


def test_an_evaluation_is_json() -> None:
    evaluation = evaluate(generator(), generator(0.9), features="pixels", images=16, judged_by=("vgg16_bn",))
    read = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))
    assert read["distances"]["frechet"] == evaluation.distances.frechet
    assert read["warnings"] == list(evaluation.warnings)


def test_related_feature_networks_are_named() -> None:
    evaluator = Evaluator(noise_images(20), features="lite2@32", weights="random", images=10, judged_by=("vgg16_bn",))
    warnings = evaluator(generator(judged_by=("tf_efficientnet_lite0",))).warnings
    for words in ("random weights", "vgg16_bn", "tf_efficientnet_lite0"):
        assert any(words in warning for warning in warnings)


def test_other_seeds_are_other_images_of_the_same_reference() -> None:
    evaluator = Evaluator(noise_images(40), features="pixels", images=20)
    one, other = (evaluator(generator(), seeds=seeds) for seeds in (range(20), range(20, 40)))
    assert one == evaluator(generator()) and one.distances != other.distances and one.floor == other.floor


def test_images_of_another_shape_are_refused_by_name() -> None:
    evaluator = Evaluator(noise_images(20), features="pixels", images=10)
    with refused("big", "8x8", "4x4", "1 channel"):
        evaluator(generator(shape=(1, 8, 8)), name="big")
    with refused("4x4", "3 channels"):
        evaluator(noise_images(20, channels=3))


@pytest.mark.parametrize("gain", [float("nan"), float("inf")])
def test_a_broken_generator_is_refused(gain: float) -> None:
    evaluator = Evaluator(noise_images(20), features="pixels", seeds=range(5, 15))
    with refused("NaN", "seed 5"):
        evaluator(generator(gain))


def test_too_few_images_and_wrong_arrays_are_refused() -> None:
    with refused("at least 8", "7"):
        Evaluator(noise_images(20), features="pixels", images=7)
    with refused("5 images", "at least 8"):
        Evaluator(noise_images(5), features="pixels", images=10)
    with refused("uint8", "int64"):
        Evaluator(np.zeros((20, 4, 4, 1), np.int64), features="pixels", images=10)
    with refused("no-such-folder"):
        Evaluator("no-such-folder", features="pixels", images=10)
    with refused("batch size", "0"):
        evaluate(noise_images(20), noise_images(20), images=10, batch_size=0)
