"""One-step generators as programs that run without d2o: ONNX files, and torch's own exported programs (.pt2).

Both take unit noise [N,C,H,W] and, for models with classes, labels [N] int64, and give images [N,C,H,W]. N is free, but
see STEPS_ASIDE.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2o.backbones import DiffusersUNet
from d2o.checkpoints import native
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import CheckpointError

from .one_step import OneStep, difference, quiet, store, trial
from .options import Options

STEPS_ASIDE = 63
"""From one image more on, diffusers' U-Nets take another way that gives the same; torch traces only one of them."""
LARGEST_ONNX = 2**31 - 2**24
"""Bytes of weights that fit into one ONNX file."""


def write_onnx(denoiser: Denoiser, path: Path, options: Options) -> tuple[float, tuple[str, ...]]:
    """Write an ONNX file, run it in onnxruntime, and return how far its images are from the denoiser's, and notes."""
    runtime = onnx_packages()
    model = generator(denoiser, options.dtype)
    if sum(tensor.nbytes for tensor in model.state_dict().values()) > LARGEST_ONNX:
        raise CheckpointError("The weights are too large for one ONNX file (2 GB): use --dtype float16, or --to torch.")
    inputs, shapes = example(denoiser)
    with quiet():
        program = torch.onnx.export(
            model,
            inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(shapes),
            output_names=["image"],
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props["d2o"] = json.dumps(native.describe(denoiser))
    program.save(path, external_data=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(noise: Tensor, label: Tensor | None) -> Tensor:
        given = {"noise": noise.numpy()} | ({} if label is None else {"label": label.numpy()})
        return torch.from_numpy(session.run(["image"], given)[0])

    return difference(denoiser, run), (f"inputs {', '.join(shapes)}; output image; any number of images at once",)


def write_torch(denoiser: Denoiser, path: Path, options: Options) -> tuple[float, tuple[str, ...]]:
    """Write an exported program of torch, load it, and return how far its images are from the denoiser's, and notes."""
    inputs, shapes = example(denoiser)
    with quiet():
        program = torch.export.export(generator(denoiser, options.dtype), inputs, dynamic_shapes=shapes)
        torch.export.save(program, path)
        module = torch.export.load(path).module()
    most = f"1 to {STEPS_ASIDE}" if isinstance(denoiser.backbone, DiffusersUNet) else "any number of"
    note = f"torch.export.load(...).module()({', '.join(shapes)}); {most} images at once"
    return difference(denoiser, lambda noise, label: module(*(noise,) if label is None else (noise, label))), (note,)


def generator(denoiser: Denoiser, dtype: str) -> OneStep:
    """Return the one-step module of a copy of the denoiser, its weights stored as `dtype`."""
    model = OneStep(deepcopy(denoiser).float()).eval().requires_grad_(False)
    store(model.backbone, dtype)
    return model


def example(denoiser: Denoiser) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Return inputs to trace the module with, and which of their sizes may change."""
    noise, label = trial(denoiser)
    most = STEPS_ASIDE if isinstance(denoiser.backbone, DiffusersUNet) else None
    images = torch.export.Dim("images", min=1, max=most)
    if label is None:
        return (noise,), {"noise": {0: images}}
    return (noise, label), {"noise": {0: images}, "label": {0: images}}


def onnx_packages() -> Any:
    """Return onnxruntime, or raise the error that names the extra when it or an exporter's package is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            "ONNX files need onnx, onnxscript and onnxruntime: pip install -e '.[export]' in d2o's folder"
        ) from error
    return onnxruntime
