"""The spectrum of known denoisers, and its report on disk."""

import json

import numpy as np
import pytest
import torch

import d2o
from d2o.analysis.frequency import ring_power, rings
from d2o.analysis.paths import Sampling, sampling_paths
from d2o.analysis.spectrum import NAMES, spectrum
from d2o.analysis.spectrum_report import report
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM


class Gaussian(Denoiser):
    """The exact denoiser of Gaussian images whose power at frequency k is `power[k]`: S / (S + sigma^2) x."""

    def __init__(self, power, side=16):
        super().__init__(torch.nn.Identity(), EDM(), (1, side, side))
        self.power = torch.as_tensor(power)[rings(side, side)]

    def forward(self, x, sigma, condition=None, augmentation=None):
        gain = self.power / (self.power + torch.as_tensor(sigma, dtype=torch.float64) ** 2)
        return torch.fft.ifft2(torch.fft.fft2(x.double()) * gain).real.float()


def falling(side=16):
    return 1e3 * (1.0 + np.arange(int(rings(side, side).max()) + 1)) ** -6.0


class TestSpectrum:
    def test_smooth_images_appear_from_low_to_high(self):
        found = spectrum(Gaussian(falling()), Sampling(range(8), 12, batch_size=3))
        assert found["teacher"].rise().low > 0.8

    def test_images_of_white_noise_do_not(self):
        found = spectrum(Gaussian(np.full(12, 0.25)), Sampling(range(8), 12, batch_size=3))["teacher"]
        assert abs(found.rise().value) < 0.5
        assert np.allclose(found.centroids.mean(), 5.5, atol=0.4)  # the mean of rings 0 to 11

    def test_the_change_of_a_gaussian_is_its_gain_times_the_noise(self):
        """From noise alone x = sigma z all frequencies of the first output are known."""
        model, sampling = Gaussian(falling()), Sampling(range(64), 6)
        ((_, points),) = sampling_paths(model, sampling)
        (first, x1), (second, x2), *_ = points
        power = falling()
        change = model(x2, second) - model(x1, first)
        gains = power / (power + first**2)
        rate = (second / first) * (1 - gains) + gains  # one Euler step; Heun's differs in the second order
        expected = (rate * first * power / (power + second**2) - first * gains) ** 2 / 256
        ratio = ring_power(change).mean(0) / expected
        assert np.allclose(ratio[6:], ratio[6], rtol=0.25) and sampling.levels(model)[:2] == (first, second)

    def test_student_and_data_are_compared(self, tiny_denoiser, tiny_data, tmp_path):
        teacher, student = tiny_denoiser(0, classes=2), tiny_denoiser(1, classes=2)
        sampling = Sampling(range(6), 4, batch_size=4)
        found = spectrum(teacher, sampling, student=student, images=d2o.images(tiny_data))
        assert tuple(found) == NAMES
        assert [one.power.shape[:2] for one in found.values()] == [(6, 3)] * 3 + [(6, 1)] * 3
        made = report(found)
        page = made.write(tmp_path / "why", {"model": "tiny"})
        assert {path.suffix for path in page.parent.iterdir()} == {".html", ".json", ".png", ".svg"}
        stored = json.loads((page.parent / "spectrum.json").read_text())
        assert stored["origin"] == {"model": "tiny"} and len(stored["progressions"]) == 3
        text = page.read_text()
        assert "http" not in text and text.count("data:image/png") == len(made.figures)
        assert all(name in made.text() and name in text for name in NAMES)

    def test_a_student_is_asked_along_the_teachers_way(self, tiny_denoiser):
        model, other = tiny_denoiser(0), tiny_denoiser(1)
        alone = spectrum(other, Sampling(range(4), 4))["teacher"]
        along = spectrum(model, Sampling(range(4), 4), student=other)["student"]
        assert not np.allclose(alone.power, along.power)

    def test_batches_do_not_matter(self, tiny_denoiser):
        whole, parts = (spectrum(tiny_denoiser(), Sampling(range(5), 4, batch_size=size)) for size in (5, 2))
        assert np.allclose(whole["teacher"].centroids, parts["teacher"].centroids, atol=1e-4)

    def test_real_images_are_taken_once(self, tiny_denoiser, tiny_data):
        model, images = tiny_denoiser(classes=2), d2o.images(tiny_data).subset(range(5))
        found = spectrum(model, Sampling(range(8), 4, batch_size=3), images=images)
        real = found["real data"]
        assert len(real.power) == 5 and len(found["teacher"].power) == 8
        assert len(np.unique(real.centroids, axis=0)) == 5
        assert {row[0]: row[1] for row in report(found).tables[0].rows}["real data"] == 5

    def test_one_real_image_is_refused_before_the_work(self, tiny_denoiser, tiny_data, monkeypatch):
        model, images = tiny_denoiser(classes=2), d2o.images(tiny_data).subset([0])
        monkeypatch.setattr(type(model), "forward", lambda *_: pytest.fail("worked"))
        with pytest.raises(ValueError, match=r"tiny .*2"):
            spectrum(model, Sampling(range(4), 4), images=images)

    def test_a_teacher_is_its_own_student(self, tiny_denoiser):
        model = tiny_denoiser()
        found = spectrum(model, Sampling(range(4), 5), student=model)
        assert np.allclose(found["teacher"].power, found["student"].power)
        once = found["student, one step"]
        assert np.isnan(once.centroids).all()  # its one-step image is its first output: no change
        assert "nan" not in report(found).text()

    def test_another_family_is_refused(self, tiny_denoiser):
        with pytest.raises(ValueError, match="--student"):
            spectrum(tiny_denoiser(), Sampling(range(4)), student=tiny_denoiser(channels=3))
