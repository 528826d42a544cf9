"""A student that is its teacher is at no distance; walks between weights end where they should."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import d2o
from d2o.analysis.barrier import along, denoising_losses, interpolated, sentences, walk
from d2o.analysis.findings import plain
from d2o.analysis.minima import DATA, Distance, MinimaStudy, findings, gap, growth, minima, same_map, series
from d2o.analysis.quality_figures import of_minima
from d2o.metrics.evaluation import Judge

QUICK = {"count": 12, "features": "pixels", "weights": "random"}


@pytest.fixture(scope="module")
def data(tiny_data):
    return d2o.images(tiny_data)


def test_a_student_that_is_its_teacher(tiny_denoiser, data):
    model = tiny_denoiser(classes=2)
    study = minima(model, {"same": model}, data, steps=(1, 2), repetitions=2, **QUICK)
    same = study.find("teacher", 1, "same", same_seeds=True)
    assert same.pixels == same.features == (0, 0) and np.allclose(same.frechet, 0, atol=1e-6)
    assert study.find("same", 1, DATA).kid == pytest.approx(study.find("teacher", 1, DATA).kid)
    calls, values = series(study, "same", "pixels", same_seeds=True)
    assert calls.tolist() == [1, 3] and values.shape == (2, 2) and (values[1] > 0).all()
    found = findings(study)
    assert len(of_minima(study)) == 2 and len(found.tables[0].rows) == 8
    assert plain(found.as_dict())["distances"][0]["calls"] == 1
    against = {row[2] for row in found.tables[0].rows}
    assert against == {DATA, "same, same seeds", "same, other seeds"}


def test_distances_that_are_compared_come_from_other_seeds(tiny_denoiser, data):
    """A student that is its teacher is as far from it as from itself: the floor, and not 0 by the seeds they share."""
    model = tiny_denoiser(classes=2)
    study = minima(model, {"same": model}, data, steps=(1,), repetitions=2, **QUICK)
    between, floor = study.find("teacher", 1, "same"), study.find("same", 1, "same")
    assert between.frechet == floor.frechet and between.kid == floor.kid and min(between.frechet) > 0
    assert between.pixels == () and not between.same_seeds and not floor.same_seeds


def study_of(between, data, student, floor=(0.0,) * 4, frechet=None):
    """Return a study with given KIDs, one a repetition, the same at every number of steps."""
    numbers = range(2, 6)
    frechet = frechet or [between] * len(numbers)
    rows = [
        Distance("s", 1, DATA, False, student, student),
        Distance("s", 1, "s", False, floor, floor),
        *(Distance("teacher", n, DATA, False, data, data) for n in numbers),
        *(Distance("teacher", n, "s", False, f, between) for n, f in zip(numbers, frechet, strict=True)),
    ]
    return MinimaStudy(tuple(rows), "pixels", 12, len(between))


class TestDecisions:
    def test_one_repetition_decides_nothing(self):
        for count in (1, 2, 3):
            study = study_of((5.0,) * count, (1.0,) * count, (1.0,) * count, (0.0,) * count)
            assert gap(study, "s", 5).startswith("Not decided: whether with 5 steps")
            assert growth(study, "s", range(2, 6)).startswith("Not decided")

    @pytest.mark.parametrize(
        ("between", "words"),
        [
            ((5.0, 5.1, 4.9, 5.2), "are farther from those of s than the two are"),
            ((0.1, 0.2, 0.1, 0.3), "are nearer to those of s than the two are"),
            ((0.5, 1.6, 0.9, 1.2), "neither surely farther"),
            ((1.6, 1.5, 1.7, 1.6), "neither surely farther"),  # farther than the teacher, nearer than the student
        ],
    )
    def test_the_distance_between_must_differ_from_both(self, between, words):
        study = study_of(between, (1.0, 1.1, 0.9, 1.0), (1.0 if between[0] != 1.6 else 3.0,) * 4)
        assert words in gap(study, "s", 5)

    def test_growth_counts_repetitions_and_not_steps(self):
        rising = [tuple(n + 0.1 * i for i in range(4)) for n in range(4)]
        study = study_of((1.0,) * 4, (1.0,) * 4, (1.0,) * 4, frechet=rising)
        said = growth(study, "s", range(2, 6))
        assert said.startswith("Holds strongly") and "N = 4" in said
        mixed = [tuple(n * (-1) ** i for i in range(4)) for n in range(4)]
        assert growth(study_of((1.0,) * 4, (1.0,) * 4, (1.0,) * 4, frechet=mixed), "s", range(2, 6)).startswith(
            "Not sh"
        )
        assert "too few, give 4 or more" in growth(study, "s", (1, 2, 3))

    def test_students_without_a_line_are_told(self):
        study = study_of((1.0,) * 4, (1.0,) * 4, (1.0,) * 4)
        row = Distance("teacher", 5, "s", True, *[(1.0,) * 4] * 6)
        study = replace(study, distances=(*study.distances, row), unlike=("s",))
        assert findings(study).conclusion[-1].startswith("There is no line between the weights of the teacher and of s")
        alone = replace(row, unpaired_pixels=(), unpaired_features=())
        assert "is not known of s" in same_map(replace(study, distances=(alone,)), "s", 5)


def test_bad_input(tiny_denoiser, data):
    model = tiny_denoiser(classes=2)
    with pytest.raises(ValueError, match="at least one student"):
        minima(model, {}, data)
    with pytest.raises(ValueError, match="Steps and repetitions are at least 1"):
        minima(model, {"a": model}, data, steps=(0,))
    with pytest.raises(ValueError, match="otherwise than 'teacher'"):
        minima(model, {"teacher": model}, data)


class TestWalk:
    def test_ends(self, tiny_denoiser):
        teacher, student = tiny_denoiser(0), tiny_denoiser(1)
        x = torch.randn(2, 1, 8, 8)
        for share, end in ((0, teacher), (1, student)):
            assert torch.allclose(interpolated(teacher, student, share)(x, 1.0), end(x, 1.0), atol=1e-5)

    def test_no_barrier_between_equals(self, tiny_denoiser, data):
        model = tiny_denoiser(classes=2)
        judge = Judge(data, images=12, features="pixels")
        found = walk(model, model, data, judge, points=3, count=20, batch_size=8)
        assert found.height == pytest.approx(0, abs=1e-9) and np.ptp(found.kid) == 0
        assert "no barrier" in sentences(found)[0]
        assert len(found.table().rows) == 3

    def test_losses_do_not_depend_on_the_batch(self, tiny_denoiser, data):
        model = tiny_denoiser(classes=2)
        one, other = (denoising_losses(model, data, 20, size) for size in (20, 7))
        assert len(one) == 20 and np.allclose(one, other, rtol=1e-3)

    def test_a_hill_is_a_barrier(self):
        shares = np.linspace(0, 1, 5)
        losses = np.tile((1 + shares + 4 * shares * (1 - shares))[:, None], 9)
        hill = along("s", shares, losses, shares, shares)
        assert hill.height == pytest.approx(1)
        assert "a barrier of 1 (standard error 0) at share 0.5" in sentences(hill)[0]
        assert "best at share 0 of s" in sentences(hill)[1]

    def test_images_that_differ_do_not_hide_a_barrier_that_all_of_them_have(self):
        """The excess is that of every image: its error is far below that of the losses, which differ by image."""
        random, shares = np.random.default_rng(0), np.linspace(0, 1, 5)
        levels = random.exponential(10, (1, 400))  # an image's own, the same at every point
        bump = 0.3 * np.sin(np.pi * shares)[:, None]
        hill = along(
            "s", shares, levels * (1 + shares[:, None]) + bump + random.normal(0, 0.1, (5, 400)), shares, shares
        )
        assert hill.loss_error.min() > 0.4 and hill.excess_error[2] == pytest.approx(0.1 * 1.5**0.5 / 20, rel=0.1)
        assert hill.height == pytest.approx(0.3, abs=0.03) and "no barrier" not in sentences(hill)[0]

    def test_chance_is_no_barrier(self):
        random, shares = np.random.default_rng(1), np.linspace(0, 1, 5)
        losses = random.normal(5, 1, (5, 400))
        losses[[1, 3]] += 9 * np.array([[-1], [-1]])  # a valley, with a middle that is as high as its ends
        assert "no barrier" in sentences(along("s", shares, losses, shares, shares))[0]

    def test_bad_input(self, tiny_denoiser, data):
        judge = Judge(data, images=12, features="pixels")
        with pytest.raises(ValueError, match="at least 3 points"):
            walk(tiny_denoiser(), tiny_denoiser(), data, judge, points=2)
