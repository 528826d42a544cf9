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
from d2o.analysis.trials import Bench

FLAT = np.ones((5, 4))


@pytest.fixture
def bench(tmp_path, tiny_data):
    return Bench(tmp_path / "trials", d2o.images(tiny_data), count=12, features="pixels")


def test_a_student_that_is_its_teacher(tiny_denoiser, bench):
    model = tiny_denoiser(classes=2)
    study = minima(model, {"same": model}, bench, steps=(1, 2), repetitions=2)
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


def test_distances_that_are_compared_come_from_other_seeds(tiny_denoiser, bench):
    """A student that is its teacher is as far from it as from itself: the floor, and not 0 by the seeds they share."""
    model = tiny_denoiser(classes=2)
    study = minima(model, {"same": model}, bench, steps=(1,), repetitions=2)
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
        assert "3 such numbers of steps are needed" in growth(study, "s", (2, 3))

    def test_steps_whose_images_are_broken_do_not_count(self):
        """Images far from the data come nearer to everything with each step more: that tells of no minimum."""
        rising = [(9.0,) * 4, *[tuple(n + 0.1 * i for i in range(4)) for n in range(3)]]
        study = study_of((1.0,) * 4, (1.0,) * 4, (1.0,) * 4, frechet=rising)
        broken = replace(study.find("teacher", 2, DATA), frechet=(8.0,) * 4)
        rows = tuple(broken if row == study.find("teacher", 2, DATA) else row for row in study.distances)
        assert not growth(study, "s", range(2, 6)).startswith("Holds")
        said = growth(replace(study, distances=rows), "s", range(2, 6))
        assert said.startswith("Holds") and "with 3, 4 and 5 steps the teacher is near the data" in said

    def test_students_without_a_line_are_told(self):
        study = study_of((1.0,) * 4, (1.0,) * 4, (1.0,) * 4)
        row = Distance("teacher", 5, "s", True, *[(1.0,) * 4] * 6)
        study = replace(study, distances=(*study.distances, row), unlike=("s",))
        assert findings(study).conclusion[-1].startswith("There is no line between the weights of the teacher and of s")
        alone = replace(row, unpaired_pixels=(), unpaired_features=())
        assert "is not known of s" in same_map(replace(study, distances=(alone,)), "s", 5)


def test_bad_input(tiny_denoiser, bench):
    model = tiny_denoiser(classes=2)
    with pytest.raises(ValueError, match="at least one student"):
        minima(model, {}, bench)
    with pytest.raises(ValueError, match="Steps and repetitions are at least 1"):
        minima(model, {"a": model}, bench, steps=(0,))
    with pytest.raises(ValueError, match="otherwise than 'teacher'"):
        minima(model, {"teacher": model}, bench)


class TestWalk:
    def test_ends(self, tiny_denoiser):
        teacher, student = tiny_denoiser(0), tiny_denoiser(1)
        x = torch.randn(2, 1, 8, 8)
        for share, end in ((0, teacher), (1, student)):
            assert torch.allclose(interpolated(teacher, student, share)(x, 1.0), end(x, 1.0), atol=1e-5)

    def test_no_barrier_between_equals(self, tiny_denoiser, bench):
        model = tiny_denoiser(classes=2)
        found = walk(model, model, bench, points=3, count=20, repetitions=2)
        assert found.height == pytest.approx(0, abs=1e-9) and np.ptp(found.kid, axis=0).tolist() == [0, 0]
        assert "no barrier" in sentences(found)[0]
        assert len(found.table().rows) == 3 and "N = 20 real images" in found.table().title

    def test_every_point_is_measured_in_every_repetition(self, tiny_denoiser, bench):
        teacher, student = tiny_denoiser(0, classes=2), tiny_denoiser(1, classes=2)
        found = walk(teacher, student, bench, points=3, count=20, repetitions=3)
        assert found.kid.shape == found.frechet.shape == (3, 3)
        assert (np.ptp(found.kid, axis=1) > 0).all()  # seeds differ
        assert found.kid[-1, 1] == pytest.approx(bench.judge(1)(student).distances.kid, rel=1e-5)
        assert all("±" in str(row[3]) and "±" in str(row[4]) for row in found.table().rows)

    def test_a_real_image_counts_once(self, tiny_denoiser, bench):
        model = tiny_denoiser(classes=2)
        found = walk(model, model, bench, points=3, count=512, repetitions=1)
        assert found.images == len(bench.images) == 40
        with pytest.raises(AssertionError):
            denoising_losses(model, bench.images, 41, 8)

    def test_losses_do_not_depend_on_the_batch(self, tiny_denoiser, bench):
        model = tiny_denoiser(classes=2)
        one, other = (denoising_losses(model, bench.images, 20, size) for size in (20, 7))
        assert len(one) == 20 and np.allclose(one, other, rtol=1e-3)

    def test_a_hill_is_a_barrier(self):
        shares = np.linspace(0, 1, 5)
        losses = np.tile((1 + shares + 4 * shares * (1 - shares))[:, None], 9)
        hill = along("s", shares, losses, FLAT, FLAT)
        assert hill.height == pytest.approx(1)
        assert "a barrier of 1 (standard error 0) at share 0.5" in sentences(hill)[0]

    def test_images_that_differ_do_not_hide_a_barrier_that_all_of_them_have(self):
        """The excess is that of every image: its error is far below that of the losses, which differ by image."""
        random, shares = np.random.default_rng(0), np.linspace(0, 1, 5)
        levels = random.exponential(10, (1, 400))  # an image's own, the same at every point
        bump = 0.3 * np.sin(np.pi * shares)[:, None]
        losses = levels * (1 + shares[:, None]) + bump + random.normal(0, 0.1, (5, 400))
        hill = along("s", shares, losses, FLAT, FLAT)
        assert hill.loss_error.min() > 0.4 and hill.excess_error[2] == pytest.approx(0.1 * 1.5**0.5 / 20, rel=0.1)
        assert hill.height == pytest.approx(0.3, abs=0.03) and "no barrier" not in sentences(hill)[0]

    def test_chance_is_no_barrier(self):
        random, shares = np.random.default_rng(1), np.linspace(0, 1, 5)
        losses = random.normal(5, 1, (5, 400))
        losses[[1, 3]] += 9 * np.array([[-1], [-1]])  # a valley, with a middle that is as high as its ends
        assert "no barrier" in sentences(along("s", shares, losses, FLAT, FLAT))[0]

    @pytest.mark.parametrize(
        ("middle", "repetitions", "words"),
        [
            ((0.5, 0.6, 0.4, 0.5), 4, "is best at share 0.5 of s (KID 0.5"),
            ((0.5, 0.6, 0.4, 0.5), 3, "no point is told apart from the better end, share 1 of s"),  # too few
            ((0.5, 1.4, 0.2, 1.3), 4, "the lowest is 0.85"),  # within the spread
            ((1.5, 1.5, 1.5, 1.5), 4, "the lowest is at that end, too); N = 4 repetitions"),
        ],
    )
    def test_the_best_point_is_better_than_both_ends(self, middle, repetitions, words):
        kid = np.array([[3, 3.1, 2.9, 3], middle, [1, 1.1, 0.9, 1]])[:, :repetitions]
        found = along("s", np.linspace(0, 1, 3), np.ones((3, 9)), kid, kid)
        assert words in sentences(found)[1] and ("is best" in words) == ("is best" in sentences(found)[1])

    def test_bad_input(self, tiny_denoiser, bench):
        with pytest.raises(ValueError, match="at least 3 points"):
            walk(tiny_denoiser(), tiny_denoiser(), bench, points=2)
