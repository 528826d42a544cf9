"""The exported page: its noise is d2o's, and its folder has all that it names (tests/server has it in a browser)."""

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import needs
from conftest import make_denoiser
from d2o import pages
from d2o.backbones import build
from d2o.checkpoints import CheckpointError
from d2o.cli.main import run
from d2o.diffusion.condition import Blend, Words
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import noise_for
from d2o.export import export, runtime, web
from d2o.pages.play import play_files

needs.package("onnxruntime")
needs.package("onnxscript")

PAGE = Path(pages.__file__).parent / "play"
SEEDS = [0, 1, 41, 2**53 + 1, 2**63 - 1]


def make_reading_denoiser(seed):
    """Return a tiny denoiser of random weights that is asked in words."""
    torch.manual_seed(seed)
    reader = Words.of(["a red cat", "a blue dog at the left"])
    sizes = {"resolution": 8, "in_channels": 3, "out_channels": 3, "channels": 8, "num_blocks": 1}
    network = build({"kind": "text_unet", "vocabulary": reader.size, "length": reader.length, **sizes})
    return Denoiser(network.eval(), EDM(), (3, 8, 8), reader=reader, one_step=True).eval()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a folder that is built as the npm package is, with other content."""
    monkeypatch.delenv(runtime.VARIABLE, raising=False)
    package = tmp_path / "package"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "1.2.3"}))
    for name in runtime.FILES:
        (package / "dist" / name).write_text(name)
    return package


def test_noise_of_a_seed_is_that_of_python(tmp_path):
    node, count = needs.node(), 30_000
    shutil.copy(PAGE / "noise.js", tmp_path / "noise.mjs")
    (tmp_path / "write.mjs").write_text(
        'import { noiseFor } from "./noise.mjs"; import fs from "fs";\n'
        f"for (const seed of {json.dumps([str(seed) for seed in SEEDS])})\n"
        f"  fs.writeFileSync(seed, Buffer.from(noiseFor(BigInt(seed), {count}).buffer));"
    )
    subprocess.run([node, "write.mjs"], cwd=tmp_path, check=True, timeout=120)
    for seed, expected in zip(SEEDS, noise_for(SEEDS, (count,)).numpy(), strict=True):
        found = np.fromfile(tmp_path / str(seed), np.float32)
        assert np.abs(found - expected).max() < 1e-6
        assert (found == expected).mean() > 0.999, "only logarithms in the tails may round otherwise"


class TestFolder:
    def test_it_holds_all_that_the_page_names_and_names_nobody_else(self, tmp_path, stand_in, monkeypatch):
        def quick(denoiser, path, options):  # the model itself is tested in the browser and as --to onnx
            path.write_bytes(b"")
            return 0.0, ()

        monkeypatch.setattr(web, "write_onnx", quick)
        made = export(make_denoiser(classes=3), tmp_path / "out", "web", runtime=str(stand_in), title="A <b>title")
        files = {str(file.relative_to(made.path)) for file in made.path.rglob("*") if file.is_file()}
        assert files == {
            *play_files("browser"),
            *("README.md", "model.json", "model.onnx"),
            *(f"runtime/{name}" for name in runtime.FILES),
        }
        assert {"index.html", "page.js", "engine.js", "noise.js"} <= files
        texts = {name: (made.path / name).read_text() for name in files if re.search(r"\.(html|css|js)$", name)}
        for name, text in texts.items():
            assert not re.search(r"https?://|//[a-z]+\.", text), f"{name} names an address"
            for other in re.findall(r'(?:from|src=|stylesheet" href=|here\()\s*"(?:\./)?([\w./-]+)"', text):
                assert other in {*files, "teacher.onnx"}, f"{name} needs {other}"
        facts = json.loads((made.path / "model.json").read_text())
        assert facts["num_classes"] == 3 and facts["image_shape"] == [1, 8, 8] and facts["title"] == "A <b>title"
        assert "1.2.3" in made.notes[1] and "d2o finetune" in made.notes[2], "it was not made for one call"

    def test_words_and_a_teacher_make_any_number_of_images(self, tmp_path, stand_in):
        import onnxruntime

        student, teacher = make_reading_denoiser(0), make_reading_denoiser(1)
        reader = student.reader
        assert isinstance(reader, Words)
        made = export(student, tmp_path / "out", "web", runtime=str(stand_in), teacher=teacher)
        assert made.error < 1e-3 and "teacher" in made.notes[0]
        facts = json.loads((made.path / "model.json").read_text())
        assert tuple(facts["words"]) == reader.words and facts["blends"] and facts["teacher"]["sigmas"]["18"]
        noise, first, second = noise_for([3], (3, 8, 8)), reader(["a red cat"]), reader(["dog"])
        asked = {"words": first.numpy(), "other": second.numpy(), "share": np.array([0.3], np.float32)}
        blend = Blend(first, second, torch.tensor([0.3]))
        with torch.no_grad():
            expected = {
                "model.onnx": student(noise * student.sigma_max, student.sigma_max, blend),
                "teacher.onnx": teacher(noise * 5.0, 5.0, blend),
            }
        given = {"model.onnx": {"noise": noise.numpy()}}
        given["teacher.onnx"] = {"x": 5 * noise.numpy(), "sigma": np.array([5], np.float32)}
        for name, images in expected.items():
            (found,) = onnxruntime.InferenceSession(made.path / name).run(None, given[name] | asked)
            assert np.abs(found - images.numpy()).max() < 1e-3, name

    def test_a_teacher_of_other_images_is_refused(self, tmp_path, stand_in):
        with pytest.raises(CheckpointError, match="--teacher"):
            other = make_denoiser(classes=2)
            export(make_denoiser(classes=3), tmp_path / "out", "web", runtime=str(stand_in), teacher=other)

    def test_the_package_may_be_a_file(self, tmp_path, stand_in):
        archive = tmp_path / "package.tgz"
        with tarfile.open(archive, "w:gz") as file:
            file.add(stand_in, "package")
        version, files = runtime.runtime_files(str(archive))
        assert version == "1.2.3" and files == {name: name.encode() for name in runtime.FILES}

    def test_latent_models_are_refused(self, tmp_path, stand_in):
        with pytest.raises(CheckpointError, match="latent"):
            export(make_denoiser(channels=4), tmp_path / "out", "web", runtime=str(stand_in))
        assert not (tmp_path / "out").exists()


class TestRuntime:
    def test_what_is_not_the_package_is_one_sentence(self, tmp_path, stand_in):
        wrong = tmp_path / "other.tgz"
        wrong.write_bytes(b"not an archive")
        empty = tmp_path / "empty"
        empty.mkdir()
        for source, hint in ((wrong, "npm pack"), (empty, "package.json"), (tmp_path / "nowhere", "npm pack")):
            with pytest.raises(CheckpointError, match=hint):
                runtime.runtime_files(str(source))
        (stand_in / "package.json").write_text('{"name": "left-pad"}')
        with pytest.raises(CheckpointError, match="is not the npm package"):
            runtime.runtime_files(str(stand_in))

    def test_offline_says_what_to_do_and_leaves_nothing(self, tmp_path, monkeypatch, capsys):
        import d2o

        monkeypatch.delenv(runtime.VARIABLE, raising=False)
        monkeypatch.setenv("D2O_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("D2O_OFFLINE", "1")
        monkeypatch.setenv("npm_config_registry", "https://mirror.example/npm/")
        d2o.save(tmp_path / "model.safetensors", make_denoiser())
        assert run(["export", str(tmp_path / "model.safetensors"), str(tmp_path / "out"), "--to", "web"]) == 2
        complaint = capsys.readouterr().err
        assert "https://mirror.example/npm/onnxruntime-web/-/" in complaint and "--runtime" in complaint
        assert not (tmp_path / "out").exists()

    def test_npm_is_asked_for_its_registry(self, monkeypatch):
        monkeypatch.setenv("npm_config_registry", "")
        monkeypatch.delenv("NPM_CONFIG_REGISTRY", raising=False)
        monkeypatch.setattr(runtime.shutil, "which", lambda name: None)
        assert runtime.package_address().startswith(f"{runtime.REGISTRY}onnxruntime-web/-/")

    def test_a_variable_names_it_for_good(self, stand_in, monkeypatch):
        monkeypatch.setenv(runtime.VARIABLE, str(stand_in))
        assert runtime.runtime_files(None)[0] == "1.2.3"
