"""Our own format: bit for bit there and back, and a CheckpointError for all that is wrong with a file."""

import json
import math
import resource
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

import d2o
from d2o.checkpoints import CheckpointError, native
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, VE, VP, Boundary
from d2o.diffusion.noise import noise_for
from d2o.errors import MalformedCheckpointError, MismatchError, UnsupportedCheckpointError

VARIANTS = {
    "plain": {},
    "classes": {"classes": 3, "channels": 3},
    "ncsn++": {
        "embedding": "fourier",
        "encoder": "residual",
        "resample_filter": [1, 3, 3, 1],
        "channel_multipliers": [1, 2],
    },
}


@pytest.fixture
def saved(tmp_path, tiny_denoiser):
    """Return a good file, and the function that writes it again with something changed."""
    path = tmp_path / "model.safetensors"
    d2o.save(path, tiny_denoiser())

    def rewrite(change_spec=lambda spec: spec, change_tensors=lambda tensors: tensors):
        spec = change_spec(native.read_header(path))
        text = spec if isinstance(spec, str) else json.dumps(spec)
        save_file(change_tensors(load_file(path)), path, {native.SPEC: text})
        return path

    return path, rewrite


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("preconditioning", [EDM(), Boundary(0.6, 0.01), VP(), VE()])
def test_a_denoiser_comes_back_bit_for_bit(tmp_path, tiny_denoiser, config, preconditioning):
    provenance = {"from": "here", "steps": [1, None]}
    denoiser = tiny_denoiser(**config).replace(preconditioning=preconditioning, provenance=provenance)
    d2o.save(tmp_path / "model.safetensors", denoiser.to(memory_format=torch.channels_last).train())
    again = d2o.load(tmp_path / "model.safetensors")
    assert again.state_dict().keys() == denoiser.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in denoiser.state_dict().items())
    assert native.describe(again) == native.describe(denoiser)
    assert not again.training and all(p.requires_grad and p.device.type == "cpu" for p in again.parameters())
    x = noise_for(range(2), denoiser.image_shape)
    label = torch.tensor([0, 2]) if denoiser.num_classes else None
    with torch.no_grad():
        torch.testing.assert_close(again(x, 2.0, label), denoiser.eval()(x, 2.0, label), rtol=1e-4, atol=1e-4)


def test_saving_twice_gives_the_same_bytes(tmp_path, tiny_denoiser):
    for name in ("a", "b"):
        d2o.save(tmp_path / f"{name}.safetensors", tiny_denoiser())
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(saved, tiny_denoiser, monkeypatch):
    path, _ = saved
    before = path.read_bytes()

    def half(tensors, file, metadata):
        del tensors, metadata
        file.write_bytes(b"half a checkp")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native, "save_file", half)
    with pytest.raises(OSError, match="disk is full"):
        d2o.save(path, tiny_denoiser(seed=1))
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_description_that_is_not_json_is_refused_before_anything_is_written(saved, tiny_denoiser):
    path, _ = saved
    before, denoiser = path.read_bytes(), tiny_denoiser().replace(provenance={"teacher": object()})
    with pytest.raises(TypeError):
        d2o.save(path, denoiser)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_an_unregistered_backbone_tells_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"Linear.*BACKBONES"):
        d2o.save(tmp_path / "model.safetensors", Denoiser(nn.Linear(1, 1), EDM(), (1, 8, 8)))
    assert not list(tmp_path.iterdir())


class TestFiles:
    def test_a_missing_file(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"nothing\.safetensors"):
            d2o.load(tmp_path / "nothing.safetensors")

    def test_a_folder_of_other_things(self, tmp_path):
        with pytest.raises(CheckpointError, match="run directory"):
            d2o.load(tmp_path)

    @pytest.mark.parametrize("length", [0, 4, 8, 100, -1])
    def test_a_truncated_file(self, saved, length):
        path, _ = saved
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(MalformedCheckpointError, match=path.name):
            d2o.load(path)

    @settings(max_examples=60, deadline=None)
    @given(content=st.binary(max_size=200))
    def test_any_bytes(self, tmp_path_factory, content):
        path = tmp_path_factory.mktemp("bytes") / "model.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            d2o.load(path)

    def test_a_header_that_claims_to_be_huge(self, tmp_path):
        path = tmp_path / "model.safetensors"
        path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
        with pytest.raises(MalformedCheckpointError):
            d2o.load(path)

    def test_a_foreign_safetensors_file(self, tmp_path):
        save_file({"weight": torch.zeros(2)}, tmp_path / "lora.safetensors", {"format": "pt"})
        with pytest.raises(UnsupportedCheckpointError, match=r"lora\.safetensors"):
            d2o.load(tmp_path / "lora.safetensors")

    def test_a_format_of_the_future(self, saved):
        path = saved[1](lambda spec: {**spec, "format": 2})
        with pytest.raises(UnsupportedCheckpointError, match="format"):
            d2o.load(path)

    @pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"d2o"', "[" * 100_000, '{"format": 1}'])
    def test_a_description_that_is_none(self, saved, text):
        path = saved[1](lambda _: text)
        with pytest.raises(UnsupportedCheckpointError, match=path.name):
            d2o.load(path)


class TestWeights:
    def test_missing_foreign_and_misshapen_ones_are_named(self, saved):
        path = saved[1](change_tensors=lambda tensors: {**tensors, "backbone.lora": torch.zeros(1)})
        with pytest.raises(MismatchError, match=r"backbone\.lora"):
            d2o.load(path)

    def test_five_are_named_and_the_others_counted(self, saved):
        path = saved[1](change_tensors=lambda tensors: dict(list(tensors.items())[8:]))
        with pytest.raises(MismatchError, match="3 more") as error:
            d2o.load(path)
        assert str(error.value).count("is missing") == 5

    def test_a_wrong_shape_tells_both(self, saved):
        name = "backbone.map_layer0.bias"
        path = saved[1](change_tensors=lambda tensors: {**tensors, name: torch.zeros(3, 2)})
        with pytest.raises(MismatchError, match=rf"{name}.*\[3, 2\].*\[16\]"):
            d2o.load(path)

    def test_half_precision_files_become_float32(self, saved):
        path = saved[1](change_tensors=lambda tensors: {name: tensor.half() for name, tensor in tensors.items()})
        assert {tensor.dtype for tensor in d2o.load(path).parameters()} == {torch.float32}


def put(place, value):
    """Return the change of a description that sets `a.b` to a value."""

    def change(spec):
        *path, last = place.split(".")
        target = spec
        for name in path:
            target = target[name]
        target[last] = value
        return spec

    return change


def nested(depth):
    tree: list = []
    for _ in range(depth):
        tree = [tree]
    return tree


HOSTILE = [
    *(
        ("backbone", value)
        for value in (None, 3, "song_unet", [], {}, {"kind": None}, {"kind": "os.system"}, nested(300))
    ),
    *(("backbone.channels", value) for value in (10**9, 10**400, -8, 0, 8.0, "8", None, True, [8], math.inf, math.nan)),
    *(("backbone.channel_multipliers", value) for value in ([], [10**6], [1] * 10**5, 1, "11", nested(300), [[1]])),
    *(("backbone.num_blocks", value) for value in (10**7, -1, None)),
    *(("backbone.dropout", value) for value in (1.5, -1, math.nan, "no")),
    *(("backbone.resolution", value) for value in (10**9, 0, None, 9.5)),
    ("backbone.shell", "rm"),
    *(("image_shape", v) for v in (None, 3, [], [1, 8], [1, 8, 8, 8], [1, 8, 10**30], [1, 8, math.inf], [1, 8, 8.5])),
    *(("image_shape", v) for v in ([1, 8, None], ["a", 8, 8], [1, -8, 8], [2, 8, 8], [1, 16, 16], "188", {"a": 1})),
    *(("num_classes", value) for value in (None, "many", -1, 10**30, math.inf, [], 0.5, 7)),
    *(("preconditioning", value) for value in (None, 3, {}, [], {"kind": "edm", "sigma_data": 1e400}, {"kind": []})),
    *(("provenance", value) for value in (3, "here", [1])),
    *(("one_step", value) for value in (None, 1, "yes", [])),
    *(("judged_by", value) for value in (None, "lite0", [3], {"a": 1}, nested(300))),
    *(("middle_sigmas", value) for value in (3, ["0.8"], [0.8, 0.9], [0.8, 0], [90.0], [math.nan], [1.0] * 2000)),
    *(("codec", value) for value in (3, "vae", {"folder": 3}, {"scale": ["a"]}, {"pixel_range": [0]}, [1])),
]


@pytest.mark.parametrize(("place", "value"), HOSTILE, ids=lambda value: repr(value)[:30])
def test_a_hostile_description_is_a_checkpoint_error_and_takes_no_memory(saved, place, value):
    path = saved[1](put(place, value))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=path.name) as error:
        d2o.load(path)
    assert len(str(error.value)) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


@pytest.mark.parametrize("place", ["backbone", "image_shape", "num_classes", "preconditioning"])
def test_a_description_without_a_part_is_a_checkpoint_error(saved, place):
    path = saved[1](lambda spec: {name: value for name, value in spec.items() if name != place})
    with pytest.raises(CheckpointError, match=place):
        d2o.load(path)


def test_the_largest_network_that_may_be_described_is_not_built_in_memory(saved):
    path = saved[1](put("backbone.channels", 4096))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MismatchError):
        d2o.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


class TestRunDirectories:
    def test_before_its_end_the_average_in_the_checkpoint_counts(self, tmp_path, tiny_denoiser):
        ema, student = tiny_denoiser(), tiny_denoiser(seed=1)
        tensors = {f"ema.{name}": tensor for name, tensor in ema.state_dict().items()}
        tensors |= {f"student.{name}": tensor for name, tensor in student.state_dict().items()}
        native.write(tmp_path / "checkpoint.safetensors", tensors, {**native.describe(ema), "content": "run"})
        for path in (tmp_path, tmp_path / "checkpoint.safetensors"):
            state = d2o.load(path).state_dict()
            assert all(torch.equal(tensor, state[name]) for name, tensor in ema.state_dict().items())

    def test_after_its_end_the_result_counts(self, tmp_path, tiny_denoiser):
        d2o.save(tmp_path / "checkpoint.safetensors", tiny_denoiser(seed=1))
        d2o.save(tmp_path / "ema.safetensors", tiny_denoiser(seed=2))
        state = d2o.load(tmp_path).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in tiny_denoiser(seed=2).state_dict().items())


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(1e-4, 1))
def test_every_preconditioning_survives_the_description(sigma_data, sigma_min):
    from conftest import make_denoiser

    family = replace(Boundary(), sigma_data=sigma_data, sigma_min=sigma_min)
    denoiser = make_denoiser().replace(preconditioning=family)
    text = json.dumps(native.describe(denoiser))
    assert native.build(native.Path("x"), json.loads(text)).preconditioning == denoiser.preconditioning
