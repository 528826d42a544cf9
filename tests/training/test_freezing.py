"""Freezing by role."""

import pytest

from d2o.training.freezing import CONVOLUTIONS, Share, freeze


def test_the_share_counts_what_is_frozen(tiny_denoiser):
    denoiser = tiny_denoiser()
    share = freeze(denoiser, CONVOLUTIONS)
    parameters = dict(denoiser.backbone.named_parameters())
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    by_hand = {name for name in parameters if any(part in name for part in (".conv0.", ".conv1.", ".proj."))}
    assert frozen == by_hand
    assert share == Share(sum(parameters[name].numel() for name in frozen), sum(p.numel() for p in parameters.values()))


def test_freezing_again_lets_go_of_what_was_frozen(tiny_denoiser):
    denoiser = tiny_denoiser()
    freeze(denoiser, CONVOLUTIONS)
    assert freeze(denoiser, ()).frozen == 0
    assert all(parameter.requires_grad for parameter in denoiser.parameters())


def test_naming_a_role_twice_counts_it_once(tiny_denoiser):
    assert freeze(tiny_denoiser(), ("norm", "norm")) == freeze(tiny_denoiser(), ("norm",))


@pytest.mark.parametrize("roles", [("convolutions",), ("norm", "lora")])
def test_a_rule_that_matches_nothing_is_an_error(tiny_denoiser, roles):
    with pytest.raises(ValueError, match=f"{roles[-1]}.*has .*convolution"):
        freeze(tiny_denoiser(), roles)


def test_freezing_everything_is_an_error(tiny_denoiser):
    denoiser = tiny_denoiser()
    roles = {denoiser.backbone.role(name) for name, _ in denoiser.backbone.named_parameters()}
    with pytest.raises(ValueError, match="leave one out"):
        freeze(denoiser, roles)


def test_a_share_reads_well():
    assert str(Share(1234, 4936)) == "1,234 of 4,936 parameters frozen (25.00%)"
