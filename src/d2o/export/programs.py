"""One-step generators as programs that run without d2o: ONNX files, and torch's own exported programs (.pt2).

Both take unit noise [N,C,H,W] and, for models with classes, labels [N] int64, and give images [N,C,H,W]. N is free, but
see MOST_IMAGES. Models that are asked in words take words and other words [N,L] int64, and shares [N] between them.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2o.backbones.diffusers_unet import DiffusersUNet
from d2o.checkpoints import native
from d2o.diffusion.condition import Blend
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import CheckpointError, is_out_of_memory

from .one_step import (
    BlendedOneStep,
    BlendedPrediction,
    OneStep,
    Options,
    Prediction,
    cast_module,
    compare,
    make_trial,
    silence,
)

MOST_IMAGES = 63
"""Above this number diffusers' U-Nets take another branch with equal results; torch traces only one of them."""
LARGEST_ONNX = 2**31 - 2**24
"""Bytes of weights that fit into one ONNX file."""


def write_onnx(denoiser: Denoiser, path: Path, options: Options) -> tuple[float, tuple[str, ...]]:
    """Write an ONNX file, run it in onnxruntime, and return how far its images are from the denoiser's, and notes."""
    model, inputs, shapes = prepare(denoiser, options)
    run = write_session(denoiser, path, model, inputs, shapes)
    error = compare(denoiser, lambda noise, condition: run(name_inputs(noise, condition)))
    return error, (f"inputs {', '.join(shapes)}; output image; any batch size",)


@torch.no_grad()
def write_prediction(denoiser: Denoiser, path: Path) -> float:
    """Write an ONNX file of D(x, sigma, condition) in float32; return how far its images are from the denoiser's."""
    noise, condition = make_trial(denoiser)
    sigma = torch.tensor([denoiser.sigma_max, *denoiser.preconditioning.sigmas(len(noise))[1:-1]])
    x = noise * sigma.view(-1, 1, 1, 1)
    inputs = {"x": x, "sigma": sigma, **name_inputs(noise, condition)}
    del inputs["noise"]
    form = BlendedPrediction if isinstance(condition, Blend) else Prediction
    run = write_session(denoiser, path, form(denoiser), tuple(inputs.values()), vary(denoiser, inputs))
    return (run(inputs) - denoiser(x, sigma, condition)).abs().max().item()


def write_session(
    denoiser: Denoiser, path: Path, model: nn.Module, inputs: tuple[Tensor, ...], shapes: dict[str, Any]
) -> Callable[[dict[str, Tensor]], Tensor]:
    """Write an ONNX file of a module, and return what runs it on inputs by name."""
    onnxruntime = import_onnxruntime()
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > LARGEST_ONNX:
        raise CheckpointError("The weights are too large for one ONNX file (2 GB): use --dtype float16, or --to torch.")
    names: dict[str, Any] = {"input_names": list(shapes), "output_names": ["image"]}
    with tracing(denoiser):
        program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    assert program is not None
    program.model.metadata_props["d2o"] = json.dumps(native.describe(denoiser))
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    if any(isinstance(one.shape[0], int) for one in session.get_inputs()):  # to which torch resorts without a word
        remedy = "ask tensors for their .shape rather than their len()"
        name = type(denoiser.backbone).__name__
        raise CheckpointError(f"The network {name} fixes the batch size at that of its first call: {remedy}.")

    def run(inputs: dict[str, Tensor]) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(session.run(["image"], given)[0])

    return run


def write_torch(denoiser: Denoiser, path: Path, options: Options) -> tuple[float, tuple[str, ...]]:
    """Write an exported program of torch, load it, and return how far its images are from the denoiser's, and notes."""
    model, inputs, shapes = prepare(denoiser, options)
    with tracing(denoiser):
        content = BytesIO()  # torch's own writer ends the process where the disk is full
        torch.export.save(torch.export.export(model, inputs, dynamic_shapes=shapes), content)
        path.write_bytes(content.getbuffer())
        module = torch.export.load(path).module()
    most = f"1 to {MOST_IMAGES}" if isinstance(denoiser.backbone, DiffusersUNet) else "any number of"
    note = f"torch.export.load(...).module()({', '.join(shapes)}); {most} images at once"
    return compare(denoiser, lambda noise, label: module(*(noise,) if label is None else (noise, label))), (note,)


@contextmanager
def tracing(denoiser: Denoiser) -> Iterator[None]:
    """Turn what torch has against a network's forward into one sentence, and silence its pages about it."""
    try:
        with silence(), redirect_stderr(StringIO()):
            yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        name = type(denoiser.backbone).__name__
        remedy = "let its forward neither branch on tensors' values nor take them out of torch (.item(), .numpy())"
        where = "--to safetensors needs no export, and D2O_TRACEBACK=1 shows torch's message"
        raise CheckpointError(f"torch cannot export the network {name}: {remedy}; {where}.") from error


def prepare(denoiser: Denoiser, options: Options) -> tuple[OneStep, tuple[Tensor, ...], dict[str, Any]]:
    """Return the one-step module of a copy of the denoiser, inputs to trace it with, and which of their sizes vary."""
    noise, condition = make_trial(denoiser)
    form = BlendedOneStep if isinstance(condition, Blend) else OneStep
    model = form(deepcopy(denoiser).float()).eval().requires_grad_(False)
    cast_module(model.backbone, options.dtype)
    inputs = name_inputs(noise, condition)
    return model, tuple(inputs.values()), vary(denoiser, inputs)


def vary(denoiser: Denoiser, names: Iterable[str]) -> dict[str, Any]:
    """Return which sizes of inputs vary: the number of images."""
    most = MOST_IMAGES if isinstance(denoiser.backbone, DiffusersUNet) else None
    images = torch.export.Dim("images", min=1, max=most)
    return {name: {0: images} for name in names}


def name_inputs(noise: Tensor, condition: Any) -> dict[str, Tensor]:
    """Return a program's inputs by the names of its parameters."""
    if isinstance(condition, Blend):
        return {"noise": noise, "words": condition.first, "other": condition.second, "share": condition.share}
    return {"noise": noise} | ({} if condition is None else {"label": condition})


def import_onnxruntime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        needed = "onnx, onnxscript and onnxruntime: pip install -e '.[export]' in d2o's folder"
        raise CheckpointError(f"ONNX files need {needed}") from error
    return onnxruntime
