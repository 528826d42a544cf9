"""What a model's file does not say, in every command: `--family`, `--config`, `--start`, `--clip`."""

import json

import pytest
import torch

import d2o
from conftest import make_denoiser
from d2o.backbones.dit import DiT
from d2o.cli.main import run
from d2o.diffusion.families import Epsilon


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Return a model whose noise is predicted badly: its images of one call are noise from 80."""
    file = tmp_path_factory.mktemp("model") / "teacher.safetensors"
    denoiser = make_denoiser(classes=2).replace(preconditioning=Epsilon())
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.mul_(1.5)
    d2o.save(file, denoiser)
    return str(file)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a state dict that does not say whether it is a DiT or a SiT."""
    file = str(tmp_path_factory.mktemp("model") / "weights.pt")
    torch.save(DiT(8, 1, 1, 2, channels=384, num_blocks=1, num_heads=6).state_dict(), file)
    return file


def start_of(capsys, model):
    capsys.readouterr()
    assert run(["inspect", model, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_student_keeps_its_start(teacher, tiny_data, tmp_path, capsys):
    found = start_of(capsys, teacher)
    assert (found["family"], found["start"], found["clip"]) == ("epsilon", 80.0, None)
    command = ["finetune", "--from", teacher, "--data", str(tiny_data), "--recipe", "digits-d2o", "--images", "16"]
    command += ["--batch", "8", "--set", "discriminator.weights=random"]
    assert run([*command, "--start", "5", "--out", str(tmp_path / "five")]) == 0
    assert start_of(capsys, str(tmp_path / "five"))["start"] == 5
    assert run([*command, "--start", "auto", "--out", str(tmp_path / "auto")]) == 0
    told = capsys.readouterr().err
    chosen = start_of(capsys, str(tmp_path / "auto"))["start"]
    assert 1 <= chosen < 80 and f"{chosen:.3g}" in told
    assert run([*command, "--start", "6", "--out", str(tmp_path / "five")]) == 2, "another start is another run"


def test_classes_are_told_by_name(tiny_denoiser, tmp_path, capsys):
    model, out = str(tmp_path / "named.safetensors"), str(tmp_path / "a.png")
    d2o.save(model, tiny_denoiser(classes=3).replace(class_names=("cat", "dog", "emu")))
    assert run(["sample", model, "--seeds", "0-3", "--out", out, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["classes"] == {"cat": 2, "dog": 1, "emu": 1} and "of cat, dog, emu" in told.err
    assert run(["sample", model, "--seeds", "0", "--class", "emu", "--out", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == {"emu": 1}
    assert run(["inspect", model]) == 0
    assert "3 classes: cat, dog, emu" in capsys.readouterr().out


def test_sample_evaluate_and_export_take_a_start(teacher, tmp_path, capsys):
    picture, other, plain = (str(tmp_path / name) for name in ("a.npz", "b.npz", "c.safetensors"))
    assert run(["sample", teacher, "--seeds", "0-3", "--out", picture]) == 0
    assert run(["sample", teacher, "--seeds", "0-3", "--start", "auto", "--out", other]) == 0
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "b.npz").read_bytes()
    assert run(["evaluate", teacher, "digits", "--features", "pixels", "--images", "20", "--start", "auto"]) == 0
    assert run(["export", teacher, "--to", "safetensors", plain, "--start", "3", "--clip", "1"]) == 0
    assert d2o.load(plain).sigma_max == 3 and d2o.load(plain).clip == 1


WRONG = {  # the options, and what their sentence names: what is wrong, or what would do
    "--start soon": "--start soon",
    "--start 0": "--start 0",
    "--start -1": "--start -1",
    "--start nan": "auto",
    "--start inf": "auto",
    "--clip -1": "--clip -1",
    "--clip nan": "none",
    "--churn -1": "Churn",
    "--churn nan": "Churn",
    "--family nonsense": "nonsense",
    "--family consistency": "epsilon",
    "--config missing.json": "missing.json",
    "--config list.json": "list.json",
    "--config broken.json": "broken.json",
    "--config .": "JSON",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_is_refused_in_one_sentence(words, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text("{")
    told = [] if "--family" in words else ["--family", "epsilon"]
    assert run(["sample", weights, "--seeds", "0", "--out", "a.png", "--steps", "2", *told, *words.split()]) == 2
    (sentence,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("d2o: "))
    assert WRONG[words] in sentence
    assert not (tmp_path / "a.png").exists()


def test_latents_are_not_clipped(tmp_path, capsys):
    d2o.save(tmp_path / "latent.safetensors", make_denoiser(channels=4))
    assert run(["export", str(tmp_path / "latent.safetensors"), "--to", "safetensors", "b", "--clip", "1"]) == 2
    assert "--clip 1" in capsys.readouterr().err


def test_a_start_above_the_schedule_is_its_end(teacher, tmp_path, capsys):
    out = str(tmp_path / "a.safetensors")
    assert run(["export", teacher, "--to", "safetensors", out, "--start", "500"]) == 0
    said = capsys.readouterr().err
    assert d2o.load(out).sigma_max == pytest.approx(157.4, abs=0.1) and "157" in said and "below 500" in said
    assert run(["export", teacher, "--to", "safetensors", out, "--start", "100"]) == 0
    assert d2o.load(out).sigma_max == 100 and "below" not in capsys.readouterr().err


def test_data_have_no_start(tmp_path, capsys):
    assert run(["evaluate", "digits", "digits", "--images", "20", "--start", "5"]) == 2
    assert "--start" in capsys.readouterr().err


def test_two_families_are_two_models(weights, tmp_path, capsys):
    sample = ["sample", weights, "--seeds", "0-1", "--steps", "2", "--out"]
    assert run([*sample, str(tmp_path / "a.npz")]) == 2
    assert "--family" in capsys.readouterr().err
    for family in ("sit", "epsilon"):
        assert run([*sample, str(tmp_path / f"{family}.npz"), "--family", family]) == 0
    assert (tmp_path / "sit.npz").read_bytes() != (tmp_path / "epsilon.npz").read_bytes()


FINETUNE = "--data DATA --recipe digits-d2o --images 8 --batch 4 --set discriminator.weights=random"
OPENED = [
    "inspect MODEL",
    "convert MODEL out.safetensors",
    "export MODEL --to safetensors out.safetensors --start 5",
    "evaluate MODEL DATA --features pixels --images 8 --start 5 --clip 1",
    f"finetune --from MODEL {FINETUNE} --out out --start 5",
    "estimate digits-d2o --from MODEL --batch 2 --set discriminator.weights=random --start 5",
    "analyze spectrum MODEL --data DATA --steps 4 --seeds 0-3 --out out --start 5",
    "analyze blocks MODEL --steps 4 --seeds 0-3 --out out --clip 1",
    "analyze minima MODEL MODEL.own --data DATA --features pixels --count 8 --steps 1 --repetitions 1 --out out",
]


@pytest.mark.parametrize("command", OPENED)
def test_a_family_is_told_wherever_a_model_is_opened(command, weights, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("d2o.pages.DOTS", 40)
    monkeypatch.setattr("d2o.planning.estimate.SECONDS", 0.0)
    d2o.save("own.safetensors", make_denoiser(classes=2))
    places = {"MODEL": weights, "DATA": str(tiny_data), "MODEL.own": "own.safetensors"}
    words = [places.get(word, word) for word in command.split()]
    assert run(words) == 2 and "--family" in capsys.readouterr().err
    assert run([*words, "--family", "sit"]) == 0
    if "--start" in words:
        assert "from the noise level 5" in capsys.readouterr().err
    if "finetune" in words:
        found = start_of(capsys, "out")
        assert (found["family"], found["start"]) == ("flow", 5)


@pytest.mark.parametrize("command", ["serve MODEL", "app MODEL", "app MODEL --teacher own.safetensors"])
def test_servers_open_what_they_are_told(command, weights, tmp_path, monkeypatch, capsys):
    pytest.importorskip("uvicorn")
    from d2o.server import application

    class Made(Exception):
        """The models are there; what is served of them is tested elsewhere."""

    def stop(denoiser, name, **_):
        raise Made(denoiser.preconditioning, denoiser.clip)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(application, "application", stop)
    d2o.save("own.safetensors", make_denoiser(classes=2))
    words = [weights if word == "MODEL" else word for word in command.split()]
    assert run(words) == 2 and "--family" in capsys.readouterr().err
    with pytest.raises(Made) as made:
        run([*words, "--family", "epsilon", "--start", "5", "--clip", "1"])
    assert made.value.args == (Epsilon(sigma_max=5.0), 1.0)


def test_options_of_a_model_need_one(capsys):
    assert run(["estimate", "digits-d2o", "--start", "5"]) == 2
    assert "--start" in (said := capsys.readouterr().err) and "--from MODEL" in said
