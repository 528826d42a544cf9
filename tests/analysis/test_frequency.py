"""Frequencies: Parseval, flat noise, waves in their ring, bands that add up."""

import numpy as np
import pytest
import torch

from d2o.analysis.frequency import (
    Band,
    by_octave,
    centroid,
    normalise,
    octaves,
    ring_power,
    ring_sizes,
)


def noise(count=16, channels=2, height=16, width=16, seed=0):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def wave(cycles, side=16, across=False):
    line = torch.cos(2 * torch.pi * cycles * torch.arange(side) / side)
    image = line.expand(side, side)
    return (image.T if across else image)[None, None].contiguous()


def normalise_power(images):
    return normalise(ring_power(images))


def shares(images):
    return normalise(by_octave(np.sum, ring_power(images) * ring_sizes(*images.shape[-2:])))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (16, 8), (5, 12), (1, 4)])
def test_parseval(height, width):
    images = noise(3, 2, height, width)
    energy = ring_power(images) @ ring_sizes(height, width)
    assert np.allclose(energy, images.double().square().mean((1, 2, 3)), rtol=1e-12)


def test_every_coefficient_is_in_a_ring():
    assert ring_sizes(8, 8).sum() == 64 and ring_sizes(8, 8)[0] == 1
    assert len(ring_sizes(8, 8)) == 7  # the corner lies at sqrt(32) = 5.7 cycles an image


def test_white_noise_is_flat():
    power = ring_power(3 * noise(4000, 1, 8, 8)).mean(0)
    assert np.allclose(power, 9 / 64, rtol=0.1)
    assert np.isclose(centroid(power), 3.0, atol=0.05)  # the mean of rings 0 to 6


@pytest.mark.parametrize("side", [16, 17, 32])
@pytest.mark.parametrize("cycles", [1, 3, 7])
@pytest.mark.parametrize("across", [False, True])
def test_a_wave_is_in_its_ring_at_every_resolution(side, cycles, across):
    spectrum = normalise_power(wave(cycles, side, across))[0]
    assert np.isclose(spectrum[cycles], 1) and np.isclose(spectrum.sum(), 1)
    assert np.isclose(centroid(spectrum), cycles)


def test_each_image_is_normalised_by_itself():
    spectra = normalise_power(torch.cat([wave(2), 100 * wave(2)]))
    assert np.allclose(spectra[0], spectra[1])


def test_no_change_has_no_spectrum():
    assert np.isnan(normalise_power(torch.zeros(2, 1, 8, 8))).all()
    assert np.isnan(centroid(np.zeros(5)))


def test_octaves():
    assert [str(band) for band in octaves(7)] == ["0", "1", "2-3", "4-7"]
    assert octaves(1) == [Band(0, 0)]
    assert octaves(9)[-1] == Band(8, 15)


def test_band_energies_add_up_and_find_the_wave():
    assert np.allclose(shares(noise()).sum(1), 1)
    mixed = wave(1) + 2 * wave(5)  # energies 1 and 4
    assert np.allclose(shares(mixed)[0], [0, 0.2, 0, 0.8, 0], atol=1e-12)


def test_band_mean_is_a_mean_over_rings():
    assert np.allclose(by_octave(np.mean, np.arange(7.0)), [0, 1, 2.5, 5])
