"""The U-Net that is asked in words: what it sees of a caption, and what it works on."""

from typing import Any

import pytest
import torch

from d2o.backbones import build
from refusal import refused

SIZES = {
    "resolution": 8, "in_channels": 3, "out_channels": 3, "channels": 8, "channel_multipliers": [1, 2],
    "num_blocks": 1, "attention_resolutions": [2],
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = build({"kind": "text_unet", "vocabulary": 9, "length": 5, **SIZES})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


@torch.no_grad()
def ask(network, words):
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return network(x, torch.tensor([0.5]), None if words is None else torch.tensor([words]))


def test_no_caption_and_an_empty_one_are_the_same(network):
    torch.testing.assert_close(ask(network, None), ask(network, [0, 0, 0, 0, 0]))
    assert not torch.allclose(ask(network, None), ask(network, [3]), atol=1e-3)


def test_padding_and_the_order_of_words_do_not_count(network):
    torch.testing.assert_close(ask(network, [3, 4]), ask(network, [4, 3, 0, 0, 0]))
    assert not torch.allclose(ask(network, [3, 4]), ask(network, [3, 5]), atol=1e-3)


def test_it_works_on_squares_of_pixels(network):
    """The finest level has as many places as there are squares, and every output pixel depends on its own square."""
    sides = []
    block = network.enc["4x4_block0"]
    hook = block.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    assert ask(network, [3]).shape == (1, 3, 8, 8) and sides == [4]
    hook.remove()
    assert build({"kind": network.kind, **network.config}).load_state_dict(network.state_dict())


def test_captions_are_dropped_in_training_only():
    network: Any = build({"kind": "text_unet", "vocabulary": 9, "length": 5, "caption_dropout": 0.5, **SIZES})
    x, words = torch.zeros(400, 3, 8, 8), torch.full((400, 5), 3)
    torch.manual_seed(0)
    dropped = (network.train().embed_condition(x, words) == 0).all(1).float().mean()
    assert 0.4 < dropped < 0.6
    assert network.eval().embed_condition(x, words).any(1).all()


def test_every_parameter_has_a_role(network):
    roles = {network.role(name) for name, _ in network.named_parameters()}
    assert {"text", "convolution", "projection", "norm", "qkv"} <= roles


def test_what_is_no_caption_is_refused(network):
    x = torch.zeros(2, 3, 8, 8)
    for words in (torch.zeros(2, 6, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long), torch.zeros(2, 5)):
        with refused("[2", "5"):
            network(x, torch.tensor([0.5, 0.5]), words)
    with refused("patch_size"):
        build({"kind": "text_unet", "vocabulary": 9, "length": 5, **SIZES | {"resolution": 9}})
