"""Frozen networks never train, and state dicts around them contain nothing of theirs."""

import pytest
import torch
from torch import nn

from d2o.features.frozen import Frozen


class Extractor(Frozen):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.weight = nn.Parameter(torch.randn(2))
        self.register_buffer("scale", torch.randn(1))
        self.freeze()


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.extractors = nn.ModuleList([Extractor(), Extractor()])
        self.head = nn.Linear(2, 2)


def values(module: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in (*module.parameters(), *module.buffers())]


def test_it_stays_in_evaluation_mode_without_gradients() -> None:
    around = Around().train()
    assert around.head.training
    assert not any(module.training for module in around.extractors[0].modules())
    around.extractors[0].requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in around.extractors[0].parameters())


def test_state_dicts_contain_nothing_of_it_and_load_strictly() -> None:
    one, other = Around(), Around()
    before, state = values(other.extractors), one.state_dict()
    assert list(state) == ["head.weight", "head.bias"]
    assert Extractor().state_dict() == {}
    Extractor().load_state_dict({})
    other.load_state_dict(state)
    assert torch.equal(other.head.weight, one.head.weight)
    assert all(torch.equal(*pair) for pair in zip(values(other.extractors), before, strict=True))


def test_entries_of_older_files_are_ignored_and_foreign_ones_are_not() -> None:
    around = Around()
    before, state = values(around.extractors), around.state_dict()
    around.load_state_dict({**state, "extractors.0.network.0.weight": torch.zeros(4, 3, 3, 3)})
    assert all(torch.equal(*pair) for pair in zip(values(around.extractors), before, strict=True))
    with pytest.raises(RuntimeError, match="foreign"):
        around.load_state_dict({**state, "foreign": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"head\.bias"):
        around.load_state_dict({"head.weight": state["head.weight"]})
