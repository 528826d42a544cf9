"""Run by test_export.py in a process of its own: load exports from disk as a user would, and save what they make.

python fresh.py FOLDER stock|own: every export in FOLDER is run, and FOLDER/name.made.pt holds its images. The stock
ones must do without d2o.
"""

import sys
from pathlib import Path
from typing import Any

import torch

COUNT = 3
LABELS = [0, 2, 1]


def pipeline(folder: Path, classes: bool) -> torch.Tensor:
    """Return what a pipeline makes of the noise of seed 0."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    given: dict[str, Any] = {"generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    made: Any = DiffusionPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    kind = type(made).__name__
    if kind == "DiTPipeline":
        images = made(LABELS, guidance_scale=1.0, num_inference_steps=1, **given).images
    elif kind == "ConsistencyModelPipeline" and classes:
        images = made(COUNT, class_labels=LABELS, num_inference_steps=1, **given).images
    else:
        images = made(COUNT, num_inference_steps=1, **given).images
    return images


def program(file: Path, classes: bool) -> torch.Tensor:
    """Return what an exported program makes of the same noise, which has three channels of 8 x 8."""
    noise = torch.randn(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    label = torch.tensor(LABELS)
    if file.suffix == ".pt2":
        module: Any = torch.export.load(file).module()
        return module(noise, label) if classes else module(noise)
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    given = {"noise": noise.numpy()} | ({"label": label.numpy()} if classes else {})
    return torch.from_numpy(session.run(["image"], given)[0])


def main(place: Path, whose: str) -> None:
    if whose == "own":
        import d2o.checkpoints.diffusers_model  # noqa: F401  as users must
    with torch.no_grad():
        for path in sorted(place.glob("*")):
            if path.suffix in ("", ".onnx", ".pt2"):
                run = pipeline if path.is_dir() else program
                torch.save(run(path, "classes" in path.stem), place / f"{path.name}.made.pt")
    if whose == "stock":
        assert not any(name.split(".")[0] == "d2o" for name in sys.modules)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
