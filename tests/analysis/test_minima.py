"""A student that is its teacher is at no distance; comparisons count repetitions; what was cut off continues."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import d2o
from d2o.analysis import measurement as measuring
from d2o.analysis.measurement import Measurement
from d2o.analysis.minima import DATA, MEASURES, TEACHER, MinimaStudy, Pair, comparisons, growth, minima
from d2o.analysis.minima_report import report
from d2o.analysis.report import plain

STEPS = (1, 2, 3)


@pytest.fixture
def measurement(tmp_path, tiny_data):
    return Measurement(tmp_path / "trials", d2o.images(tiny_data), count=12, features="pixels")


class TestDistances:
    def test_a_student_that_is_its_teacher(self, tiny_denoiser, measurement):
        model = tiny_denoiser(classes=2)
        study = minima(model, {"same": model}, measurement, steps=(1, 2), repetitions=2)
        same = study.distances[Pair(TEACHER, 1, "same", True)]
        assert same["pixels"] == same["features"] == [0, 0] and np.allclose(same["frechet"], 0, atol=1e-6)
        assert study.distances[Pair("same", 1, DATA)] == study.distances[Pair(TEACHER, 1, DATA)]
        assert min(study.distances[Pair(TEACHER, 2, "same", True)]["pixels"]) > 0
        made = report(study)
        assert len(made.tables[1].rows) == 8 and made.as_dict()["distances"][0]["calls"] == 1

    def test_those_that_are_compared_come_from_other_seeds(self, tiny_denoiser, measurement):
        """A student that is its teacher is as far from it as from itself: the floor, not 0 by the seeds they share."""
        model = tiny_denoiser(classes=2)
        found = minima(model, {"same": model}, measurement, steps=(1,), repetitions=2).distances
        between, floor = found[Pair(TEACHER, 1, "same")], found[Pair("same", 1, "same")]
        assert between["frechet"] == floor["frechet"] and between["kid"] == floor["kid"] and min(between["frechet"]) > 0
        assert between["pixels"] == []

    def test_bad_input(self, tiny_denoiser, measurement):
        model = tiny_denoiser(classes=2)
        for students, steps, names in (
            ({}, (1,), "student"),
            ({"a": model}, (0,), "--steps"),
            ({TEACHER: model}, (1,), TEACHER),
        ):
            with pytest.raises(ValueError, match=names):
                minima(model, students, measurement, steps=steps)
        for options, names in (({"count": 7}, "--count.* 8"), ({"batch_size": 0}, "--batch.* 1")):
            with pytest.raises(ValueError, match=names):
                replace(measurement, **options)


def made_up(between, data, student, *, steps=range(2, 7)):
    """Return a study with these KIDs: of a teacher [steps][repetitions], or one row for all, and of a student."""
    between, data = ([row] * len(steps) if np.ndim(row) == 1 else row for row in (between, data))
    kids = {Pair("s", 1, DATA): student, Pair("s", 1, "s"): student}
    for n, apart, to_data in zip(steps, between, data, strict=True):
        kids |= {Pair(TEACHER, n, DATA): to_data, Pair(TEACHER, n, "s"): apart, Pair(TEACHER, n, "s", True): apart}
    distances = {pair: {what: [] for what in MEASURES} | {"frechet": [1.0] * len(row), "kid": list(row)}
                 for pair, row in kids.items()}  # fmt: skip
    return MinimaStudy(distances, ("s",), tuple(steps), "pixels", 12, len(student))


def growth_of(*arguments, **options):
    ((name, found),) = growth(made_up(*arguments, **options), "s").items()
    return name, found


class TestComparisons:
    @pytest.mark.parametrize(
        ("between", "signs"),
        [
            ((5.0, 5.1, 4.9, 5.2), (1, 1)),
            ((0.1, 0.2, 0.1, 0.3), (-1, -1)),
            ((0.5, 1.6, 0.9, 1.2), (0, 0)),
        ],
    )
    def test_the_distance_between_is_compared_with_both_ends(self, between, signs):
        found = list(comparisons(made_up(between, (1.0, 1.1, 0.9, 1.0), (1.0,) * 4), "s").values())[:2]
        assert tuple((one.low > 0) - (one.high < 0) for one in found) == signs

    def test_fewer_than_four_repetitions_have_no_interval(self):
        found = comparisons(made_up((5.0,) * 3, (1.0,) * 3, (1.0,) * 3), "s")
        assert all(math.isnan(one.low) for one in found.values())

    def test_growth_counts_repetitions_and_not_steps(self):
        ones = (1.0,) * 4
        name, found = growth_of([[n + 0.1 * i for i in range(4)] for n in range(5)], ones, ones)
        assert found.size == 4 and found.value == pytest.approx(1) and found.low > 0.5 and "2, 3, 4, 5, 6" in name
        mixed = [[n * (-1) ** i for i in range(4)] for n in range(5)]
        assert growth_of(mixed, ones, ones)[1].low < 0 < growth_of(mixed, ones, ones)[1].high

    def test_what_moves_the_teacher_from_data_and_student_alike_is_no_growth(self):
        """As more steps make its images better, they come nearer to both."""
        noise = np.random.default_rng(0).normal(1, 0.001, (5, 4))
        falling = [[1 - 0.02 * n + 0.0001 * i for i in range(4)] for n in range(5)]
        assert growth_of(falling, (1.0,) * 4, (1.0,) * 4)[1].high < 0
        found = growth_of(np.add(falling, noise), falling, (1.0,) * 4)[1]
        assert found.low < 0 < found.high

    def test_a_teacher_that_is_not_shown_to_be_near_the_data_does_not_count(self):
        ones = (1.0,) * 4
        for far in ((2.4,) * 4, (1.3,) * 4, (0.5, 1.6, 0.9, 1.2)):
            name, _ = growth_of(ones, [far, *[ones] * 5], ones, steps=range(2, 8))
            assert name.endswith("steps 3, 4, 5, 6, 7")

    @pytest.mark.parametrize("steps", [1, 3, 4])
    def test_fewer_than_five_steps_have_no_order_to_speak_of(self, steps):
        rising = [[n + 0.1 * i for i in range(4)] for n in range(steps)]
        name, found = growth_of(rising, (1.0,) * 4, (1.0,) * 4, steps=range(1, steps + 1))
        assert math.isnan(found.value) and math.isnan(found.low) and "--steps" in name and "5" in name

    @pytest.mark.parametrize("steps", [5, 7])
    def test_growth_is_found_where_there_is_none_as_rarely_as_the_interval_says(self, steps):
        generator = np.random.default_rng(steps)
        unrelated = generator.normal(1, 0.1, (500, steps, 4))
        found = [growth_of(rows, (1.0,) * 4, (1.0,) * 4, steps=range(1, steps + 1))[1] for rows in unrelated]
        assert 0.02 < np.mean([not one.low <= 0 <= one.high for one in found]) < 0.08

    def test_pairs_are_measured_by_those_of_other_seeds(self):
        study = made_up((1.0,) * 4, (1.0,) * 4, (1.0,) * 4)
        pairs = study.distances[Pair(TEACHER, 6, "s", True)]
        pairs["pixels"], pairs["unpaired_pixels"] = [1.0] * 4, [4.0] * 4
        (found,) = (one for name, one in comparisons(study, "s").items() if "pixels" in name)
        assert found.value == 0.25


class TestContinuing:
    @pytest.fixture
    def models(self, tiny_denoiser):
        teacher = tiny_denoiser(0, classes=2)
        return teacher, {"one": tiny_denoiser(1, classes=2), "b/two": tiny_denoiser(2, classes=2)}

    @pytest.fixture
    def calls(self, monkeypatch):
        """Return a function that lists the samples that are made from now on, and stops at the last one allowed."""

        def listed(allowed: int = 10**9) -> list:
            monkeypatch.undo()
            found, real = [], measuring.generate_images

            def counted(*arguments, **options):
                if len(found) == allowed:
                    raise KeyboardInterrupt
                found.append((options["name"], options["steps"]))
                return real(*arguments, **options)

            monkeypatch.setattr(measuring, "generate_images", counted)
            return found

        return listed

    @staticmethod
    def study(measurement, teacher, students, repetitions=2):
        return plain(minima(teacher, students, measurement, steps=STEPS, repetitions=repetitions).distances)

    def test_after_a_stop(self, tmp_path, measurement, models, calls):
        whole = self.study(replace(measurement, directory=tmp_path / "whole"), *models)
        calls(allowed=(4 + len(STEPS)) + 5)  # two samples of each student and the teacher's, and one row of the next
        with pytest.raises(KeyboardInterrupt):
            self.study(measurement, *models)
        made = calls()
        assert self.study(measurement, *models) == whole
        assert [call for call in made if call[0] == TEACHER] == [(TEACHER, 2), (TEACHER, 3)] and len(made) == 4 + 2

    def test_nothing_is_done_twice(self, measurement, models, calls, monkeypatch):
        first = self.study(measurement, *models)
        made = calls()
        monkeypatch.setattr(measuring, "Evaluator", lambda *_, **__: pytest.fail("measured again"))
        assert self.study(replace(measurement, batch_size=5), *models) == first and made == []

    def test_more_repetitions_keep_the_first(self, measurement, models, calls):
        teacher, students = models
        few = minima(teacher, students, measurement, steps=STEPS, repetitions=2).distances
        made = calls()
        more = minima(teacher, students, measurement, steps=STEPS, repetitions=3).distances
        assert len(made) == 4 + len(STEPS)
        assert all(row["kid"] == more[pair]["kid"][:2] for pair, row in few.items())

    def test_other_settings_are_refused(self, measurement, models, tiny_denoiser, tiny_data, tmp_path):
        teacher, students = models
        self.study(measurement, teacher, students, repetitions=1)
        other = tiny_denoiser(3, classes=2)
        np.savez(tmp_path / "tiny.npz", **{**np.load(tiny_data), "images": 255 - np.load(tiny_data)["images"]})
        for changed, one, others, names in (
            (measurement, other, students, r"one-1-0\.json.*teacher_sha256.*another directory"),
            (measurement, teacher, {**students, "one": other}, r"students_sha256\.one"),
            (replace(measurement, count=16), teacher, students, "count.* 12.* 16"),
            (replace(measurement, images=measurement.images.subset(range(30))), teacher, students, "40.* 30"),
            (replace(measurement, images=d2o.images(tmp_path / "tiny.npz")), teacher, students, "tiny"),
        ):
            with pytest.raises(ValueError, match=names):
                self.study(changed, one, others, repetitions=1)

    def test_results_without_a_fingerprint_are_taken(self, measurement, models, calls):
        first = self.study(measurement, *models, repetitions=1)
        for file in measurement.directory.glob("*.json"):
            record = json.loads(file.read_text())
            del record["settings"]["fingerprint"]
            file.write_text(json.dumps(record))
        made = calls()
        assert self.study(measurement, *models, repetitions=1) == first and made == []


def test_repetitions_share_the_features_of_the_real_images_and_have_seeds_of_their_own(measurement):
    assert measurement.evaluator is measurement.evaluator
    assert [measurement.seeds(repetition) for repetition in (0, 1)] == [range(12), range(12, 24)]
