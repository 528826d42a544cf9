"""DiT: against its equations written out once more, and what every part of it is for."""

import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from d2o.backbones import build
from d2o.backbones.dit import DiT

TINY = {"kind": "dit", "resolution": 8, "in_channels": 3, "out_channels": 3, "num_classes": 4, "patch_size": 2}
TINY |= {"channels": 24, "num_blocks": 2, "num_heads": 3}
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


def make(**config) -> DiT:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = build({**TINY, **config})
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert isinstance(network, DiT)
    return network.eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 8, 8, generator=generator)
    return {"x": x, "noise": torch.tensor([0.0, 412.0, 999.0]), "condition": torch.tensor([2, 0, 3])}


def by_hand(state, x, time, label, heads, eps=1e-6, last=128):
    """The network of the paper from its state dict, one image, one head, one patch at a time."""

    def dense(name, value):
        return value @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def normal(tokens, shift, scale, eps):
        deviation = (tokens.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        return (tokens - tokens.mean(-1, keepdim=True)) / deviation * (1 + scale) + shift

    channels, _, side, _ = state["x_embedder.proj.weight"].shape
    rows, columns = x.shape[1] // side, x.shape[2] // side
    patches = [x[:, r * side : (r + 1) * side, c * side : (c + 1) * side] for r in range(rows) for c in range(columns)]
    kernel = state["x_embedder.proj.weight"].flatten(1)
    tokens = torch.stack([kernel @ patch.flatten() for patch in patches]) + state["x_embedder.proj.bias"]
    for index, (row, column) in enumerate((r, c) for r in range(rows) for c in range(columns)):
        speeds = [10_000 ** (-i / (channels // 4)) for i in range(channels // 4)]
        place = [f(p * s) for p in (column, row) for f in (math.sin, math.cos) for s in speeds]
        tokens[index] += torch.tensor(place)
    angles = [time * 10_000 ** (-i / last) for i in range(128)]
    waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    known = dense("t_embedder.mlp.2", F.silu(dense("t_embedder.mlp.0", waves)))
    known = F.silu(known + state["y_embedder.embedding_table.weight"][label])
    size, block = channels // heads, 0
    while f"blocks.{block}.mlp.fc1.weight" in state:
        name = f"blocks.{block}"
        shift, scale, gate, shift2, scale2, gate2 = dense(f"{name}.adaLN_modulation.1", known).view(6, channels)
        query, key, value = (
            dense(f"{name}.attn.qkv", normal(tokens, shift, scale, 1e-6)).view(-1, 3, channels).unbind(1)
        )
        parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
        looks = [(query[:, p] @ key[:, p].T / math.sqrt(size)).softmax(-1) @ value[:, p] for p in parts]
        tokens = tokens + gate * dense(f"{name}.attn.proj", torch.cat(looks, 1))
        hidden = dense(f"{name}.mlp.fc1", normal(tokens, shift2, scale2, eps))
        hidden = hidden / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        tokens = tokens + gate2 * dense(f"{name}.mlp.fc2", hidden)
        block += 1
    shift, scale = dense("final_layer.adaLN_modulation.1", known).view(2, channels)
    pixels = dense("final_layer.linear", normal(tokens, shift, scale, 1e-6)).view(rows, columns, side, side, -1)
    image = torch.zeros(pixels.shape[-1], rows * side, columns * side)
    for r in range(rows):
        for c in range(columns):
            image[:, r * side : (r + 1) * side, c * side : (c + 1) * side] = pixels[r, c].permute(2, 0, 1)
    return image


@pytest.mark.parametrize(
    ("config", "numbers"),
    [({}, {}), ({"time_endpoint": True, "mlp_eps": 1e-2}, {"last": 127, "eps": 1e-2}), ({"patch_size": 4}, {})],
)
@torch.no_grad()
def test_it_is_the_network_of_the_paper(batch, config, numbers):
    network = make(**config)
    state = network.state_dict()
    rows = zip(batch["x"], batch["noise"].tolist(), batch["condition"].tolist(), strict=True)
    wanted = torch.stack([by_hand(state, x, time, label, 3, **numbers) for x, time, label in rows])
    found = network(**batch)
    assert wanted.std() > 0.5
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_no_class_is_the_last_row_of_the_table(batch):
    network = make()
    none = network(batch["x"], batch["noise"])
    assert torch.equal(none, network(batch["x"], batch["noise"], torch.full((3,), -1)))
    mixed = network(batch["x"], batch["noise"], torch.tensor([2, -1, -7]))
    torch.testing.assert_close(mixed[1:], none[1:])
    assert not torch.allclose(mixed[:1], none[:1])
    network.get_parameter("y_embedder.embedding_table.weight")[4] += 1
    assert not torch.allclose(none, network(batch["x"], batch["noise"]))
    assert torch.equal(network(**batch), network.train()(**batch))  # no labels are dropped


@pytest.mark.parametrize("label", [torch.tensor([0, 1, 4]), torch.zeros(2, dtype=torch.long), torch.zeros(3)])
def test_classes_that_there_are_not(batch, label):
    with pytest.raises(ValueError, match=r"(?i)label"):
        make()(batch["x"], batch["noise"], label)


@torch.no_grad()
def test_embedders_of_each_block_that_are_equal_are_one(batch):
    one, many = make(), make(embedders="per block")
    state = {name: tensor for name, tensor in one.state_dict().items() if "_embedder" not in name or name[0] == "x"}
    for index in range(2):
        state |= {f"blocks.{index}.{n}": t for n, t in one.state_dict().items() if n.startswith(("t_emb", "y_emb"))}
    many.load_state_dict(state)
    assert torch.equal(one(**batch), many(**batch))
    many.get_parameter("blocks.1.t_embedder.mlp.2.bias").add_(1)
    assert not torch.allclose(one(**batch), many(**batch))


@torch.no_grad()
def test_a_new_network_says_nothing(batch):
    network = build(TINY)
    assert not network(**batch).any()
    for name, parameter in network.named_parameters():
        zero = name.endswith("bias") or "adaLN" in name or name.startswith("final_layer")
        assert bool(parameter.any()) != zero, name


@torch.no_grad()
def test_the_last_layer_computes_in_float32_whatever_the_others_do(batch):
    network = make()
    seen = {}
    network.final_layer.linear.register_forward_hook(lambda _, given, out: seen.update(given=given[0], out=out))
    with torch.autocast("cpu", torch.bfloat16):
        found = network(**batch)
    assert {found.dtype, seen["given"].dtype, seen["out"].dtype} == {torch.float32}
    assert 0 < (found - network(**batch)).abs().max() < 0.2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patch_size": 3}, "patch_size.*3.*8"),
        ({"num_heads": 5}, "num_heads.*5.*24"),
        ({"channels": 30, "num_heads": 3}, "channels.*4"),
        ({"embedders": "none"}, "embedders"),
        ({"time_endpoint": 1}, "time_endpoint"),
        ({"mlp_eps": -1.0}, "mlp_eps"),
        ({"num_blocks": 10**9}, "num_blocks"),
    ],
)
def test_a_wrong_option_is_a_clear_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        build({**TINY, **wrong})


@pytest.mark.parametrize("embedders", ["shared", "per block"])
def test_every_parameter_has_a_role(embedders):
    network = make(embedders=embedders)
    roles = Counter(network.role(name) for name, _ in network.named_parameters())
    matrices = {"qkv": 2, "projection": 2, "mlp": 4, "modulation": 2}
    assert roles == {
        **matrices,
        "bias": 10,
        "embedding": 5 * (1 if embedders == "shared" else 2),
        "input": 2,
        "output": 4,
    }
    with pytest.raises(ValueError, match=r"lora\.weight"):
        network.role("lora.weight")


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_the_published_sizes(size, millions):
    channels, num_blocks, num_heads = SIZES[size]
    spec = {**TINY, "resolution": 32, "in_channels": 4, "out_channels": 8, "num_classes": 1000}
    with torch.device("meta"):
        network = build({**spec, "channels": channels, "num_blocks": num_blocks, "num_heads": num_heads})
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions
