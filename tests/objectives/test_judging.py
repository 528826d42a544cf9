"""What the discriminator sees: pixels, crops or latents, through either decoder, and real images as generated ones."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoencoders import save_autoencoder
from d2o.diffusion.noise import noise_for
from d2o.discriminators import Discriminator, Perceptual, Projected
from d2o.encoders.codec import Autoencoder, attach, decode_through, open_network
from d2o.objectives import Adversarial, Consistency, Denoising
from d2o.objectives.batch import Batch
from d2o.objectives.judging import cut
from d2o.objectives.objective import Networks
from refusal import refused

WAYS: dict[str, dict[str, Any]] = {
    "pixels": {},
    "crops": {"judged": "crops"},
    "small crops": {"judged": "crops", "crop": 3},
    "latents": {"judged": "latents"},
    "tiny decoder": {"decoder": "tiny"},
    "crops through it": {"judged": "crops", "decoder": "tiny"},
}


class Sum(Discriminator):
    """Logit = 0.3 times the sum of an image; `seen` has all images that it saw."""

    def __init__(self):
        super().__init__()
        self.w, self.seen = nn.Parameter(torch.tensor(0.3)), []

    def features(self, images, about=None):
        self.seen.append(images)
        return [[images]]

    def judge(self, features, condition=None):
        return [self.w * row.flatten(1).sum(1, keepdim=True) for (row,) in features]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("codecs")
    return {
        "own": save_autoencoder("AutoencoderKL", place / "own"),
        "tiny": save_autoencoder("AutoencoderTiny", place / "tiny", seed=1),
    }


@pytest.fixture
def student(folders, tiny_denoiser):
    return attach(tiny_denoiser(channels=4), folders["own"])


@pytest.fixture
def batch():
    return Batch(noise_for(range(50, 54), (3, 16, 16)).clamp(-1, 1), None, range(4), seed=1)


def make(way: str, folders: dict[str, str]) -> Adversarial:
    settings = dict(WAYS[way])
    if "decoder" in settings:
        settings["decoder"] = folders["tiny"]
    return Adversarial(r1=0.02, r1_every=2, **settings)


@torch.no_grad()
def shown(way: str, latents: Tensor, student: Any, folders: dict[str, str], batch: Batch) -> Tensor:
    """Return what should be seen of latents, by the networks themselves."""
    if way == "latents":
        return latents
    if "crops" in way:
        side = WAYS[way].get("crop", 4)
        corners = (batch.uniform("crop", 2) * (8 - side + 1)).long().tolist()
        latents = torch.stack([x[:, i : i + side, j : j + side] for x, (i, j) in zip(latents, corners, strict=True)])
    if "decoder" in WAYS[way]:
        return open_network(folders["tiny"]).decode(latents).sample
    return student.decode(latents)


@pytest.mark.parametrize("way", WAYS)
class TestWays:
    def test_real_and_generated_images_are_seen_alike(self, way, student, folders, batch):
        objective, judge = make(way, folders), Sum()
        networks = Networks(student, student, None, judge)
        objective(networks, batch)
        objective.discriminator_loss(networks, batch)
        fake, real = judge.seen
        with torch.no_grad():
            made = student(80.0 * batch.noise("generator", (4, 8, 8)), 80.0)
        torch.testing.assert_close(fake, shown(way, made, student, folders, batch), rtol=1e-4, atol=1e-5)
        wanted = batch.x0 if way == "pixels" else shown(way, student.encode(batch.x0), student, folders, batch)
        torch.testing.assert_close(real, wanted, rtol=1e-4, atol=1e-5)
        assert fake.shape == real.shape == (4, *objective.judged_shape(student))
        assert not real.requires_grad

    def test_the_gradient_reaches_the_student_and_no_decoder(self, way, student, folders, batch):
        make(way, folders)(Networks(student, student, None, Sum()), batch).mean().backward()
        gradients = [p.grad for p in student.parameters() if p.grad is not None]
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0
        for folder in folders.values():
            assert all(p.grad is None for p in open_network(folder).parameters())

    def test_r1_is_of_what_is_seen(self, way, student, folders, batch):
        objective, judge = make(way, folders), Sum()
        penalty = objective.penalise_real(Networks(student, student, None, judge), batch)
        count = judge.seen[0][0].numel()
        assert penalty.tolist() == pytest.approx([2 * 0.02 / 2 * 0.3**2 * count] * 4)

    def test_latents_of_a_data_set_are_as_good_as_its_images(self, way, student, folders, batch):
        encoded = Batch(None, None, batch.index, batch.seed, latents=student.encode(batch.x0))
        objective, judge = make(way, folders), Sum()
        for images in (batch, encoded):
            objective.discriminator_loss(Networks(student, student, None, judge), images)
        one, other = judge.seen[1], judge.seen[3]
        assert torch.equal(other, student.decode(encoded.latents) if way == "pixels" else one)


def test_other_objectives_take_latents_too(student, batch, tiny_denoiser):
    encoded = Batch(None, None, batch.index, batch.seed, latents=student.encode(batch.x0))
    networks = Networks(student, student, tiny_denoiser(seed=1, channels=4), target=tiny_denoiser(seed=2, channels=4))
    for objective in (Denoising(), Consistency()):
        assert torch.equal(objective(networks, encoded), objective(networks, batch))
    first, second = encoded.split(3)
    assert first.x0 is None and (len(first), len(second)) == (3, 1)
    assert torch.equal(torch.cat([first.latents_for(student), second.latents_for(student)]), student.encode(batch.x0))
    with refused("x0", "latents"):
        len(Batch(None, None, range(4)))


def test_images_are_encoded_and_decoded_once(student, batch, monkeypatch):
    calls = []
    for name, given in (("encode", batch), ("decode", Batch(None, None, range(4), latents=student.encode(batch.x0)))):
        work = getattr(student, name)
        monkeypatch.setattr(student, name, lambda x, name=name, work=work: calls.append(name) or work(x))
        for _ in range(2):
            (given.latents_for if name == "encode" else given.pixels_for)(student)
    assert calls == ["encode", "decode"]


class TestCrops:
    def test_a_window_is_a_part_of_its_image(self):
        images = torch.arange(64.0).view(1, 1, 8, 8).expand(4, 1, 8, 8)
        places = torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.5, 0.0], [0.0, 0.999]])
        assert cut(images, 3, places)[:, 0, 0, 0].tolist() == [0, 45, 24, 5]
        assert torch.equal(cut(images, 3, places)[1, 0], images[0, 0, 5:, 5:])
        assert torch.equal(cut(images, 8, places), images)

    def test_every_place_is_as_likely(self):
        images = torch.arange(36.0).view(1, 1, 6, 6).expand(8000, 1, 6, 6)
        found = cut(images, 4, Batch(images, None, range(8000)).uniform("crop", 2))[:, 0, 0, 0]
        counts = torch.stack([(found == 6 * i + j).sum() for i in range(3) for j in range(3)])
        assert counts.sum() == 8000 and (counts - 8000 / 9).abs().max() < 5 * (8000 / 9) ** 0.5

    def test_another_iteration_sees_another_window(self, student, folders, batch):
        later = Batch(batch.x0, None, range(4, 8), seed=1)
        one, other = (make("crops", folders).show_real(student, each) for each in (batch, later))
        assert not torch.equal(one, other)

    def test_their_features_are_not_cached(self, student, folders):
        for way, count in (("pixels", 4), ("tiny decoder", 4), ("crops", 0)):
            batch = Batch(noise_for(range(4), (3, 16, 16)), None, range(4), number=range(4))
            objective = make(way, folders)
            judge = Projected(weights="random", size=32, width=16).build(objective.judged_shape(student))
            objective.discriminator_loss(Networks(student, student, None, judge), batch)
            assert [len(cache.rows) for cache in judge.caches] == [count], way

    def test_a_model_of_pixels_has_them_too(self, tiny_denoiser):
        x0, model = noise_for(range(2), (1, 8, 8)), tiny_denoiser()
        batch = Batch(x0, None, range(2))
        objective = Adversarial(judged="crops", crop=5)
        assert torch.equal(objective.show_real(model, batch), cut(x0, 5, batch.uniform("crop", 2)))
        assert objective.judged_shape(model) == (1, 5, 5)


class TestDecoders:
    def test_latents_of_another_scale_are_brought_to_the_folder_s(self, student, folders):
        """EDM2's latents, say, are those of the same autoencoder with a scale of their own for each channel."""
        scale, bias, raw = (0.5, 1.0, 2.0, 4.0), (0.0, 1.0, -2.0, 3.0), noise_for(range(2), (4, 8, 8))
        other = student.replace(codec=Autoencoder(folders["own"], scale, bias))
        images = []
        for model in (student, other):
            (times, shift), codec = model.codec.affine(), decode_through(model, folders["tiny"])
            images.append(codec.decode(times * raw + shift))
        torch.testing.assert_close(*images, rtol=1e-4, atol=1e-5)

    def test_samples_keep_the_model_s_own(self, student, folders):
        trained = make("tiny decoder", folders).prepare(student)
        x = noise_for(range(2), (4, 8, 8))
        assert torch.equal(trained.decode(x), student.decode(x)) and trained.codec == student.codec

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_model_of_pixels_needs_none(self, channels, tiny_denoiser, folders):
        with refused(folders["tiny"], "pixels"):
            make("tiny decoder", folders).prepare(tiny_denoiser(channels=channels))

    def test_it_must_take_the_model_s_latents(self, student, folders, tiny_denoiser, tmp_path):
        model = attach(tiny_denoiser(channels=5), folders["own"])
        with refused(folders["tiny"], "4 channels", "5"):
            make("tiny decoder", folders).prepare(model)
        with refused(str(tmp_path / "nothing"), "objectives.0.decoder"):
            Adversarial(decoder=str(tmp_path / "nothing")).prepare(student)


@pytest.mark.parametrize(
    "settings", [{"crop": 3}, {"judged": "latents", "decoder": "tiny"}, {"judged": "crops", "crop": 0}]
)
def test_settings_that_contradict_each_other_are_refused(settings):
    with pytest.raises(ValueError):
        Adversarial(**settings)


def test_a_model_of_pixels_has_no_latents(tiny_denoiser):
    with refused("latents", "pixels"):
        Adversarial(judged="latents").prepare(tiny_denoiser())


def test_a_crop_fits_into_the_image(student):
    with refused("9x9", "8x8", "objectives.0.crop=4"):
        Adversarial(judged="crops", crop=9).prepare(student)


@pytest.mark.parametrize("record", [Projected(weights="random"), Perceptual(weights="random")])
def test_networks_of_colour_images_name_who_can_see_latents(record):
    with refused(record.kind, "4", "stylegan2", "convolutional"):
        record.build((4, 8, 8))
