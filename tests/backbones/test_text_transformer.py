"""The transformer that is asked in words: which words it sees, and what no caption is."""

from typing import Any

import pytest
import torch

from d2o.backbones import build
from d2o.backbones.text_transformer import NOTHING
from d2o.diffusion.condition import Blend
from refusal import refused


@pytest.fixture(scope="module")
def network():
    sizes = {"resolution": 8, "in_channels": 3, "out_channels": 3, "channels": 16, "num_blocks": 2, "num_heads": 2}
    torch.manual_seed(0)
    network = build({"kind": "text_transformer", "vocabulary": 9, "length": 5, **sizes})
    for parameter in network.parameters():  # its blocks begin as the identity, and its output as zero
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


@torch.no_grad()
def ask(network, words):
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return network(x, torch.tensor([500.0]), None if words is None else torch.tensor([words]))


def test_no_caption_an_empty_one_and_the_word_for_nothing_are_the_same(network):
    nothing = ask(network, None)
    assert torch.equal(nothing, ask(network, [0, 0, 0, 0, 0]))
    assert torch.equal(nothing, ask(network, [NOTHING]))
    assert not torch.allclose(nothing, ask(network, [3]), atol=1e-3)


def test_padding_is_not_seen(network):
    torch.testing.assert_close(ask(network, [3, 4]), ask(network, [3, 4, 0, 0, 0]))
    assert not torch.allclose(ask(network, [3, 4]), ask(network, [4, 3]), atol=1e-3)


def test_an_untrained_network_predicts_zero_and_every_parameter_has_a_role():
    sizes = {"resolution": 8, "in_channels": 3, "out_channels": 3, "channels": 16, "num_blocks": 1, "num_heads": 2}
    network = build({"kind": "text_transformer", "vocabulary": 9, "length": 5, **sizes})
    assert not ask(network, [3]).any()
    roles = {network.role(name) for name, _ in network.named_parameters()}
    assert {"text", "qkv", "projection", "mlp", "modulation", "norm", "bias"} <= roles


def test_captions_are_dropped_in_training_only():
    sizes = {"resolution": 8, "in_channels": 3, "out_channels": 3, "channels": 16, "num_blocks": 1, "num_heads": 2}
    network: Any = build({"kind": "text_transformer", "vocabulary": 9, "length": 5, "caption_dropout": 0.5, **sizes})
    x, words = torch.zeros(400, 3, 8, 8), torch.full((400, 5), 3)
    torch.manual_seed(0)
    dropped = (network.train().drop_captions(x, words)[:, 0] == NOTHING).float().mean()
    assert 0.4 < dropped < 0.6
    assert torch.equal(network.eval().drop_captions(x, words), words)


def test_what_is_no_caption_is_refused(network):
    x = torch.zeros(2, 3, 8, 8)
    for words in (torch.zeros(2, 6, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long), torch.zeros(2, 5)):
        with refused("[2", "5"):
            network(x, torch.zeros(2), words)


@pytest.mark.parametrize("kind", ["text_transformer", "text_unet"])
def test_a_blend_leads_from_one_caption_to_another(kind):
    torch.manual_seed(0)
    network = build({"kind": kind, "vocabulary": 9, "length": 5, "resolution": 8, "in_channels": 3, "out_channels": 3})
    for parameter in network.eval().parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    x, noise = torch.randn(1, 3, 8, 8).expand(5, -1, -1, -1), torch.full((5,), 0.5)
    first, second = torch.tensor([[3, 4, 0, 0, 0]]).expand(5, -1), torch.tensor([[5, 6, 7, 0, 0]]).expand(5, -1)
    share = torch.tensor([0.0, 1e-4, 0.5, 1 - 1e-4, 1.0])
    with torch.no_grad():
        found = network(x, noise, Blend(first, second, share))
        ends = torch.cat([network(x[:1], noise[:1], words[:1]) for words in (first, second)])
    torch.testing.assert_close(found[[0, 4]], ends, rtol=1e-4, atol=1e-4)
    way = [(one - other).abs().max() for one, other in zip(found[1:], found[:-1], strict=True)]
    assert max(way[0], way[3]) < 0.02 * min(way[1], way[2]), (
        "it leaves without a jump, though captions have other lengths"
    )
