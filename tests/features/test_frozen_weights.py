"""Weights are found, verified, read as data, and belong to the network that they are put into."""

import os
import pickle
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from d2o.features import weights

LITE0 = "tf_efficientnet_lite0"
LITES = (LITE0, "tf_efficientnet_lite2")
PALACE = 698


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)


def reference(name: str) -> nn.Module:
    """The network as timm makes it, batch norms and all, with the package's weights."""
    network = timm.create_model(name)
    state = weights.find_state(name, "package")
    assert state is not None
    network.load_state_dict(weights.rename_entries(state, name), strict=True)
    return network.eval()


@pytest.mark.parametrize("name", LITES)
def test_packages_hold_networks_that_know_a_palace(name: str) -> None:
    from sklearn.datasets import load_sample_image

    photograph = torch.tensor(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None, :, :, 100:527]
    images = F.interpolate(photograph / 127.5 - 1, (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert weights.network(name)(images).argmax().item() == PALACE


@pytest.mark.parametrize("name", LITES)
def test_folding_changes_no_logit(name: str) -> None:
    network = weights.network(name)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = reference(name)(images), network(images)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_and_the_folder_give_the_same_network(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"resnet10t{suffix}"
    network = timm.create_model("resnet10t").eval()
    state, images = network.state_dict(), torch.randn(2, 3, 64, 64)
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path))
    for source in (str(path), "auto"):
        with torch.no_grad():
            assert torch.allclose(weights.network("resnet10t", source)(images), network(images), atol=1e-4)


def test_random_weights_repeat_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (weights.network("resnet10t", source) for source in ("random", "random", "random:7"))
    assert torch.equal(torch.rand(3), expected)
    key = "conv1.0.weight"
    assert torch.equal(first.state_dict()[key], again.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_a_missing_network_is_an_error_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"vgg16_bn.*D2O_WEIGHTS.*random"):
        weights.network("vgg16_bn", "auto")
    assert time.monotonic() - started < 5


def test_sha256_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"some\.pth.*SHA-256"):
        weights.find_state(LITE0, f"{path}#{'0' * 64}")
    package = weights.PACKAGES[LITE0]
    state = weights.find_state(LITE0, f"{package.path()}#{package.sha256.upper()}")
    assert state is not None
    assert "_conv_stem.weight" in state


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["D2O_ATTACK"],)


def test_pickles_are_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("D2O_ATTACK", str(tmp_path / "harm"))
    for path, write in ((tmp_path / "zip.pth", torch.save), (tmp_path / "plain.pth", None)):
        write({"weight": Attack()}, path) if write else path.write_bytes(pickle.dumps(Attack()))
        with pytest.raises(ValueError, match=path.name):
            weights.find_state(LITE0, str(path))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"not weights at all"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_damaged_files_are_named(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        weights.find_state(LITE0, str(path))


@pytest.mark.parametrize("content", [{}, {"step": 3}, [torch.zeros(2)]])
def test_files_without_tensors_are_named(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth.*tensors"):
        weights.find_state(LITE0, str(tmp_path / "odd.pth"))


def test_an_empty_file_is_no_reason_to_look_elsewhere(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match=r"empty\.safetensors"):
        weights.network("resnet10t", str(tmp_path / "empty.safetensors"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"conv_stem.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "part.pth")
    for source in (str(tmp_path / "part.pth"), str(weights.PACKAGES["tf_efficientnet_lite2"].path())):
        with pytest.raises(ValueError, match=LITE0):
            weights.network(LITE0, source)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("no_such_network", "random", "no_such_network.*list_models"),
        (LITE0, "nowhere.pth", r"No file 'nowhere\.pth'.*package"),
        (LITE0, "random:soon", "soon.*random:7"),
        ("vgg16_bn", "package", "vgg16_bn.*hub"),
    ],
)
def test_mistakes_are_explained(name: str, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights.network(name, source)


def test_state_dicts_inside_checkpoints_are_found(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {"weight": torch.arange(3.0)}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "wrapped.pth")
    found = weights.find_state(LITE0, str(tmp_path / "wrapped.pth"))
    assert found is not None
    assert torch.equal(found["weight"], tensors["weight"])
