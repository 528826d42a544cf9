"""A study of minima that was cut off goes on where it was, and ends as if nothing had happened."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import d2o
from d2o.analysis import barrier, side_by_side
from d2o.analysis.barrier import walk
from d2o.analysis.findings import plain
from d2o.analysis.minima import findings, minima
from d2o.analysis.side_by_side import Repetition
from d2o.analysis.trials import Bench

STEPS = (1, 2, 3)


@pytest.fixture
def bench(tmp_path, tiny_data):
    return Bench(tmp_path / "trials", d2o.images(tiny_data), count=12, features="pixels")


@pytest.fixture
def calls(monkeypatch):
    """Return a function that lists the calls of another from now on, and stops the study at the last one allowed."""

    def listed(place, name, allowed=10**9):
        monkeypatch.undo()
        found, real = [], getattr(place, name)

        def counted(*arguments, **options):
            if len(found) == allowed:
                raise KeyboardInterrupt
            found.append((options.get("name"), options.get("steps")))
            return real(*arguments, **options)

        monkeypatch.setattr(place, name, counted)
        return found

    return listed


class TestDistances:
    @pytest.fixture
    def models(self, tiny_denoiser):
        teacher = tiny_denoiser(0, classes=2)
        return teacher, {"one": tiny_denoiser(1, classes=2), "b/two": tiny_denoiser(2, classes=2)}

    def study(self, bench, teacher, students, repetitions=2):
        return plain(findings(minima(teacher, students, bench, steps=STEPS, repetitions=repetitions)).as_dict())

    def test_continue(self, tmp_path, bench, models, calls):
        whole = self.study(replace(bench, directory=tmp_path / "whole"), *models)
        a_repetition = 4 + len(STEPS)  # two samples of each student, and the teacher's
        calls(side_by_side, "generated", allowed=a_repetition + 5)  # one row of the teacher's in the second
        with pytest.raises(KeyboardInterrupt):
            self.study(bench, *models)
        made = calls(side_by_side, "generated")
        assert self.study(bench, *models) == whole
        assert [call for call in made if call[0] == "teacher"] == [("teacher", 2), ("teacher", 3)]
        assert len(made) == 4 + 2

    def test_do_nothing_twice(self, bench, models, calls):
        first = self.study(bench, *models)
        made = calls(side_by_side, "generated")
        again = replace(bench, judges={})
        assert self.study(again, *models) == first and made == [] and again.judges == {}

    def test_more_repetitions_keep_the_first(self, bench, models, calls):
        few = minima(models[0], models[1], bench, steps=STEPS, repetitions=2)
        made = calls(side_by_side, "generated")
        more = minima(models[0], models[1], bench, steps=STEPS, repetitions=3)
        assert len(made) == 4 + len(STEPS)
        assert [one.kid for one in few.distances] == [one.kid[:2] for one in more.distances]
        repetitions = [Repetition(bench, models[1], number) for number in range(3)]
        assert len({seed for one in repetitions for seed in (*one.seeds, *one.others)}) == 3 * 2 * 12

    def test_other_settings_are_refused(self, bench, models, tiny_denoiser):
        teacher, students = models
        self.study(bench, teacher, students, repetitions=1)
        with pytest.raises(ValueError, match=r"one-1-0\.json holds a result of other settings: its teacher_sha256 is"):
            self.study(bench, tiny_denoiser(3, classes=2), students)
        with pytest.raises(ValueError, match=r"its students_sha256\.one is"):
            self.study(bench, teacher, {**students, "one": tiny_denoiser(3, classes=2)})
        with pytest.raises(ValueError, match="its count is 12, not 16; choose another directory"):
            self.study(replace(bench, count=16, judges={}), *models)
        with pytest.raises(ValueError, match="its images is 40, not 30"):
            self.study(replace(bench, images=bench.images.subset(range(30)), judges={}), *models)

    def test_other_data_of_the_same_name_is_refused(self, bench, models, tiny_data, tmp_path):
        first = self.study(bench, *models, repetitions=1)
        arrays = dict(np.load(tiny_data))
        np.savez(tmp_path / "tiny.npz", **{**arrays, "images": arrays["images"][::-1]})
        sentence = r"other settings: tiny has other images or labels than it had then; choose another directory"
        with pytest.raises(ValueError, match=sentence):
            self.study(replace(bench, images=d2o.images(tmp_path / "tiny.npz"), judges={}), *models, repetitions=1)
        np.savez(tmp_path / "moved.npz", **arrays)
        moved = replace(bench, images=d2o.images(tmp_path / "moved.npz"), judges={})
        assert self.study(moved, *models, repetitions=1) == first

    def test_results_without_a_fingerprint_are_taken(self, bench, models, tiny_data, tmp_path, calls):
        first = self.study(bench, *models, repetitions=1)
        for file in bench.directory.glob("*.json"):
            record = json.loads(file.read_text())
            del record["settings"]["fingerprint"]
            file.write_text(json.dumps(record))
        made = calls(side_by_side, "generated")
        assert self.study(bench, *models, repetitions=1) == first and made == []
        np.savez(tmp_path / "other.npz", **np.load(tiny_data))
        with pytest.raises(ValueError, match="its data is tiny, not other; choose another directory"):
            self.study(replace(bench, images=d2o.images(tmp_path / "other.npz")), *models, repetitions=1)

    def test_the_batch_is_no_setting(self, bench, models):
        first = self.study(bench, *models, repetitions=1)
        assert self.study(replace(bench, batch_size=5, judges={}), *models, repetitions=1) == first


class TestWalk:
    @pytest.fixture
    def models(self, tiny_denoiser):
        return tiny_denoiser(0, classes=2), tiny_denoiser(1, classes=2)

    def test_continues(self, tmp_path, bench, models, calls):
        options: dict[str, Any] = {"points": 5, "count": 20, "repetitions": 2}
        whole = walk(models[0], models[1], replace(bench, directory=tmp_path / "whole"), **options)
        calls(barrier, "interpolated", allowed=3 + 2)  # a loss and two qualities a point
        with pytest.raises(KeyboardInterrupt):
            walk(models[0], models[1], bench, **options)
        made = calls(barrier, "interpolated")
        found = walk(models[0], models[1], bench, **options)
        assert len(made) == 5 * 3 - (3 + 2)
        for name, value in vars(whole).items():
            assert np.array_equal(value, getattr(found, name)), name
        walk(models[0], models[1], bench, points=9, count=20, repetitions=3)
        assert len(made) == 5 * 3 - (3 + 2) + 4 * 4 + 5  # four points between them, and one more repetition

    def test_other_settings_are_refused(self, bench, models, tiny_denoiser):
        options: dict[str, Any] = {"points": 3, "repetitions": 1}
        walk(models[0], models[1], bench, count=20, **options)
        with pytest.raises(ValueError, match=r"student-0-loss\.json holds a result of other settings: its loss_images"):
            walk(models[0], models[1], bench, count=10, **options)
        with pytest.raises(ValueError, match="its student_sha256 is"):
            walk(models[0], tiny_denoiser(2, classes=2), bench, count=20, **options)


def test_repetitions_share_one_look_at_the_real_images(bench):
    first, second = bench.judge(0), bench.judge(1)
    assert first.reference is second.reference and first.embedding is second.embedding
    assert first.seeds == tuple(range(12)) and second.seeds == tuple(range(12, 24))
