"""A denoiser is its backbone inside the four coefficients."""

import torch

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import noise_for


class Ideal(torch.nn.Module):
    """The network that makes EDM's denoiser perfect for data N(0, sigma_data^2): it has nothing to add."""

    def forward(self, x, noise, label, augmentation):
        del noise, label, augmentation
        return torch.zeros_like(x)


def test_an_empty_network_is_the_best_denoiser_of_gaussian_data():
    denoiser, x = Denoiser(Ideal(), EDM(), (1, 4, 4)), noise_for(range(3), (1, 4, 4))
    torch.testing.assert_close(denoiser(x, 2.0), 0.25 / 4.25 * x)


def test_every_image_has_its_own_sigma(tiny_denoiser):
    denoiser, x, sigma = tiny_denoiser(), noise_for(range(3), (1, 8, 8)), torch.tensor([0.1, 1.0, 80.0])
    with torch.no_grad():
        together = denoiser(x, sigma)
        for i in range(3):
            torch.testing.assert_close(
                denoiser(x[i : i + 1], float(sigma[i])), together[i : i + 1], rtol=1e-4, atol=1e-5
            )


def test_doubles_come_in_and_float32_goes_out_also_in_bfloat16(tiny_denoiser):
    denoiser, x = tiny_denoiser(), noise_for(range(3), (1, 8, 8))
    with torch.no_grad():
        exact = denoiser(x.double(), 1.0)
        assert exact.dtype == torch.float32 and torch.equal(exact, denoiser(x, 1.0))
        denoiser.precision = torch.bfloat16
        rounded = denoiser(x, 1.0)
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.1)
