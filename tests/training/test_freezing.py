"""Freezing by role."""

import pytest
import torch

from d2o.training.freezing import ALL_BUT_NORMS, CONVOLUTIONS, Share, freeze
from d2o.training.networks import new_denoiser
from d2o.training.recipes import BACKBONES, DATA, METHODS
from refusal import refused


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
    with refused(roles[-1], "convolution"):
        freeze(tiny_denoiser(), roles)


def test_freezing_everything_is_an_error(tiny_denoiser):
    denoiser = tiny_denoiser()
    roles = {denoiser.backbone.role(name) for name, _ in denoiser.backbone.named_parameters()}
    with refused("frozen", *roles):
        freeze(denoiser, roles)


def test_a_share_reads_well():
    assert str(Share(1234, 4936)) == "1,234 of 4,936 parameters frozen (25.00%)"


RULES = {
    "name:*.conv0.*": lambda name: ".conv0." in name,
    "block:enc.*": lambda name: name.startswith("enc.") and name.count(".") > 1,
    "block:*_block0": lambda name: "_block0." in name,
    "resolution:4": lambda name: ".4x4_" in name,
    "all-but:name:*norm*": lambda name: "norm" not in name,
    "all-but:norm": lambda name: ".norm" not in name,
    "all-but:block:dec.*": lambda name: not (name.startswith("dec.") and name.count(".") > 1),
    "role:skip": lambda name: ".skip." in name,
    "conv*": lambda name: ".conv0." in name or ".conv1." in name,
}


@pytest.mark.parametrize("rule", RULES)
def test_the_grammar_of_rules(tiny_denoiser, rule):
    denoiser = tiny_denoiser(channel_multipliers=[1, 2])
    freeze(denoiser, (rule,))
    frozen = {name for name, parameter in denoiser.backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in denoiser.backbone.named_parameters() if RULES[rule](name)} != set()


@pytest.mark.parametrize("kind", ["song_unet", "dhariwal_unet"])
def test_all_but_norms_leaves_the_norms_alone(tiny_denoiser, kind):
    denoiser = tiny_denoiser(kind=kind)
    freeze(denoiser, ALL_BUT_NORMS)
    layers = [m for m in denoiser.backbone.modules() if isinstance(m, torch.nn.GroupNorm)]
    norms = {id(parameter) for layer in layers for parameter in layer.parameters()}
    assert {id(p) for p in denoiser.backbone.parameters() if p.requires_grad} == norms


def test_rules_add_up(tiny_denoiser):
    denoiser = tiny_denoiser(channel_multipliers=[1, 2])
    parts = [freeze(denoiser, (rule,)).frozen for rule in ("resolution:4", "resolution:8")]
    assert freeze(denoiser, ("resolution:4", "resolution:8")).frozen == sum(parts)
    assert freeze(denoiser, ("resolution:4", "name:*4x4*")).frozen == parts[0]


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ("resolution:32", ("'32'", "8")),
        ("block:enc.9x9_block0", ("enc.9x9_block0", "enc.8x8_conv")),
        ("name:encoder.*", ("encoder.*",)),
        ("name:", ("name", "''")),
        ("all-but:nrm", ("'nrm'",)),
        ("all-but:name:*", ("all-but:name:*",)),
        ("colour:blue", ("colour:blue", "block:", "resolution:", "all-but:")),
        ("name:*", ("parameters",)),
    ],
)
def test_a_rule_that_cannot_be_used_is_one_sentence(tiny_denoiser, rule, names):
    with refused(*names):
        freeze(tiny_denoiser(), (rule,))


def test_the_shares_of_the_real_networks():
    """Counted on the public networks' architectures; 85.80 % is the figure of the paper."""
    shares = {
        name: [freeze(full_size(name), METHODS[method].frozen) for method in METHODS if method in LEVELS]
        for name in ("cifar10", "ffhq64", "imagenet64")
    }
    percent = {name: [round(100 * share.frozen / share.total, 2) for share in row] for name, row in shares.items()}
    assert percent == {
        "cifar10": [84.40, 85.80, 86.50, 90.46],
        "ffhq64": [83.84, 85.09, 85.72, 89.70],
        "imagenet64": [78.77, 84.23, 86.96, 90.17],
    }
    assert shares["cifar10"][1] == Share(48_387_072, 56_395_523)


LEVELS = ("d2o-f", "d2o-f-conv-qkv", "d2o-f-qkv", "d2o-f-skip")


def full_size(name):
    with torch.device("meta"):
        return new_denoiser(BACKBONES[DATA[name].backbone], DATA[name].image_shape, DATA[name].num_classes)
