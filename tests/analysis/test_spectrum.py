"""The spectrum of known denoisers; paths are those of the sampler; results, page and words."""

import json

import numpy as np
import pytest
import torch

import d2o
from d2o.analysis.figures import of_spectrum
from d2o.analysis.frequency import rings
from d2o.analysis.page import write
from d2o.analysis.paths import levels, noised, sampled
from d2o.analysis.spectrum import findings, spectrum
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import generate


class Gaussian(Denoiser):
    """The exact denoiser of Gaussian images whose power at frequency k is `power[k]`: S / (S + sigma^2) x."""

    def __init__(self, power, side=16):
        super().__init__(torch.nn.Identity(), EDM(), (1, side, side))
        self.power = torch.as_tensor(power)[rings(side, side)]

    def forward(self, x, sigma, label=None, augmentation=None):
        gain = self.power / (self.power + torch.as_tensor(sigma, dtype=torch.float64) ** 2)
        return torch.fft.ifft2(torch.fft.fft2(x.double()) * gain).real.float()


def falling(side=16):
    return 1e3 * (1.0 + np.arange(int(rings(side, side).max()) + 1)) ** -6.0


class TestPaths:
    @pytest.mark.parametrize("sampler", ["heun", "euler"])
    def test_are_those_of_the_sampler(self, tiny_denoiser, sampler):
        model = tiny_denoiser(classes=2)
        seeds = [3, 4, 5]
        ends = []
        for path in sampled(model, seeds, 5, sampler, batch_size=2):
            points = list(path.points)
            assert [sigma for sigma, _ in points] == list(levels(model, 5))
            sigma, x = points[-1]
            with torch.no_grad():
                ends.append(model(x, sigma, path.label))
        made = torch.cat(list(generate(model, seeds, steps=5, sampler=sampler)))
        assert torch.allclose(torch.cat(ends), made, atol=1e-5)  # the last interval ends at the last output

    def test_of_real_images_add_one_noise(self, tiny_denoiser, tiny_data):
        model, images = tiny_denoiser(classes=2), d2o.images(tiny_data)
        (path, x0), *_ = noised(model, images, range(6), 4, batch_size=6)
        for sigma, x in path.points:
            assert torch.allclose((x - x0) / sigma, noise_for(range(6), (1, 8, 8)), atol=1e-3 + 1e-6 / sigma)
        assert path.label is not None and len(path.label) == 6

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"steps": 3}, "at least 4 steps"),
            ({"seeds": [1]}, "at least 2"),
            ({"sampler": "magic"}, "there are euler, heun"),
            ({"batch_size": 0}, "at least one image"),
        ],
    )
    def test_bad_input(self, tiny_denoiser, options, words):
        with pytest.raises(ValueError, match=words):
            spectrum(tiny_denoiser(), **{"seeds": [0, 1], "steps": 4, **options})


class TestSpectrum:
    def test_smooth_images_appear_from_low_to_high(self):
        study = spectrum(Gaussian(falling()), seeds=range(8), steps=12, batch_size=3)
        assert study.progressions[0].rise().low > 0.8
        assert findings(study).conclusion[0].startswith("Holds strongly")

    def test_images_of_white_noise_do_not(self):
        study = spectrum(Gaussian(np.full(12, 0.25)), seeds=range(8), steps=12, batch_size=3)
        found = study.progressions[0]
        assert abs(found.rise().value) < 0.5
        assert np.allclose(found.centroids.mean(), 5.5, atol=0.4)  # the mean of rings 0 to 11

    def test_the_change_of_a_gaussian_is_its_gain_times_the_noise(self):
        """From noise alone x = sigma z all frequencies of the first output are known."""
        model = Gaussian(falling())
        sigmas = levels(model, 6)
        ((_, points),) = sampled(model, range(64), 6, batch_size=64)
        (first, x1), (second, x2), *_ = points
        power = falling()
        change = model(x2, second) - model(x1, first)
        gains = power / (power + first**2)
        rate = (second / first) * (1 - gains) + gains  # one Euler step; Heun's differs in the second order
        expected = (rate * first * power / (power + second**2) - first * gains) ** 2 / 256
        from d2o.analysis.frequency import ring_power

        ratio = ring_power(change).mean(0) / expected
        assert np.allclose(ratio[6:], ratio[6], rtol=0.25) and sigmas[:2] == (first, second)

    def test_student_and_data_are_compared(self, tiny_denoiser, tiny_data, tmp_path):
        teacher, student = tiny_denoiser(0, classes=2), tiny_denoiser(1, classes=2)
        study = spectrum(teacher, student=student, images=d2o.images(tiny_data), seeds=range(6), steps=4, batch_size=4)
        assert [found.name for found in study.progressions] == ["teacher", "real data", "student"]
        assert {found.name: found.centroids.shape for found in study.at_once} == {
            "teacher, all at once": (6, 1),
            "student, one step": (6, 1),
            "real data, all at once": (6, 1),
        }
        found = findings(study)
        page = write(tmp_path / "why", found, of_spectrum(study), {"model": "tiny"})
        assert {path.suffix for path in page.parent.iterdir()} == {".html", ".json", ".png", ".svg"}
        stored = json.loads((page.parent / "spectrum.json").read_text())
        assert stored["origin"] == {"model": "tiny"} and len(stored["progressions"]) == 3
        text = page.read_text()
        assert "http" not in text and "$" not in text and text.count("data:image/png") == len(of_spectrum(study))
        assert "rank correlation is" in found.text()
        assert any("another seed, may differ" in sentence for sentence in found.definitions)
        titles = [f"The {name}, step by step" for name in ("teacher", "real data", "student")]
        assert [table.title for table in found.tables[1:]] == titles
        cells = [table.rows[-1] for table in found.tables[1:]]
        assert len(set(cells)) == 3 and all(len(row) == len(found.tables[1].columns) for row in cells)

    def test_every_progression_has_its_bands(self, tiny_denoiser):
        teacher, student = tiny_denoiser(0, classes=2), tiny_denoiser(1, classes=2)
        study = spectrum(teacher, student=student, seeds=range(4), steps=4, batch_size=4)
        figure = next(drawing.figure for drawing in of_spectrum(study) if drawing.name == "bands")
        assert [axes.get_title() for axes in figure.axes] == ["teacher", "student"]
        for axes, found in zip(figure.axes, study.progressions, strict=True):
            for index, line in enumerate(axes.lines):
                assert np.allclose(line.get_ydata(), found.energies[..., index].mean(0))
        (legend,) = figure.legends
        lowest = legend.get_window_extent().y0
        assert all(lowest >= axes.get_window_extent().y1 for axes in figure.axes)  # over no curve

    def test_real_images_are_taken_once(self, tiny_denoiser, tiny_data):
        model, images = tiny_denoiser(classes=2), d2o.images(tiny_data).subset(range(5))
        study = spectrum(model, images=images, seeds=range(8), steps=4, batch_size=3)
        real = study.progressions[1]
        assert len(real.centroids) == 5 and len(study.progressions[0].centroids) == 8
        assert len(np.unique(real.centroids, axis=0)) == 5
        said = findings(study)
        assert "Of real images there are only 5, each taken once; of the teacher's, 8." in said.conclusion
        assert [row[1] for row in said.tables[0].rows if "real data" in str(row[0])] == [5, 5]

    def test_one_real_image_is_refused_before_the_work(self, tiny_denoiser, tiny_data, monkeypatch):
        model, images = tiny_denoiser(classes=2), d2o.images(tiny_data).subset([0])
        monkeypatch.setattr(type(model), "forward", lambda *_: pytest.fail("worked"))
        with pytest.raises(ValueError, match="tiny has one image alone: a spread over real images needs at least 2"):
            spectrum(model, images=images, seeds=range(4), steps=4)

    def test_a_teacher_is_its_own_student(self, tiny_denoiser):
        model = tiny_denoiser()
        study = spectrum(model, student=model, seeds=range(4), steps=5, batch_size=4)
        said = findings(study)
        row = next(row for row in said.tables[0].rows if row[0] == "student, one step")
        assert row[1] == 4 and set(row[2:]) == {"-"}
        assert "student -" in said.text() and "nan" not in said.text()
        assert len(of_spectrum(study)) == 5  # and can be drawn
        teacher, student = study.progressions
        assert np.allclose(teacher.spectrum, student.spectrum)
        assert np.isnan(study.at_once[1].centroids).all()  # its one-step image is its first output: no change

    def test_another_family_is_refused(self, tiny_denoiser):
        with pytest.raises(ValueError, match="give a student of this teacher"):
            spectrum(tiny_denoiser(), student=tiny_denoiser(channels=3), seeds=range(4))
