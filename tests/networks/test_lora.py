"""Changes of layers: merged and live are one function, and what is removed leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from calotype.errors import InputError
from calotype.networks.lora import (
    Adapter,
    Change,
    Decomposed,
    Difference,
    Hadamard,
    Kronecker,
    Layer,
    LowRank,
    sharing,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + len(shape))) * 0.3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 8, 1), nn.Flatten(), nn.Linear(32, 10)
    )


PICTURE = normal(2, 4, 4, 4, seed=7)


def everything() -> dict[str, Change]:
    """Every kind on a layer of its own shape."""
    return {
        "0": LowRank(normal(3, 4, 3, 3), normal(6, 3), 0.5),
        "1": LowRank(normal(3, 6, 1, 1), normal(8, 3), 0.5),
        "3": LowRank(normal(3, 32), normal(10, 3), 2.0),
    }


def others() -> list[dict[str, Change]]:
    tucker = LowRank(normal(3, 4), normal(6, 3), 0.5, normal(3, 3, 3, 3))
    pairs = ((normal(6, 2), normal(2, 36)), (normal(6, 2, seed=1), normal(2, 36, seed=1)))
    cores = ((normal(2, 6), normal(2, 4)), (normal(2, 6, seed=1), normal(2, 4, seed=1)))
    return [
        {"0": tucker},
        {"0": Hadamard(pairs, 0.7)},
        {"0": Hadamard(cores, 0.7, (normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1)))},
        {
            "0": Kronecker(normal(2, 2), normal(3, 2, 3, 3), 0.7),
            "3": Kronecker(normal(2, 4), normal(5, 8), 1.0),
        },
        {"0": Difference(normal(6, 4, 3, 3), normal(6)), "3": Difference(normal(10, 32))},
        {
            "0": Decomposed(tucker, normal(6, 1, 1, 1), 0),
            "3": Decomposed(everything()["3"], normal(1, 32), 1),
        },
    ]


@torch.no_grad()
@pytest.mark.parametrize("changes", [everything(), *others()])
def test_merged_and_live_are_the_same_and_leave_no_trace(changes: dict[str, Change]) -> None:
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    kept, plain = dict(module.named_parameters()), module(PICTURE)
    adapter = Adapter(module)
    adapter.apply([(changes, 0.8)])
    merged = module(PICTURE)
    assert float((merged - plain).abs().max()) > 1e-4
    adapter.apply([(changes, 0.8)], live=True)
    assert float((module(PICTURE) - merged).abs().max()) <= 1e-6
    adapter.remove()
    assert torch.equal(module(PICTURE), plain)
    assert dict(module.named_parameters()).keys() == kept.keys()
    for name, value in module.named_parameters():
        assert value is kept[name]
        assert torch.equal(value, before[name])


@torch.no_grad()
def test_several_add_up_from_the_networks_own_weights() -> None:
    module, first, second = network(), everything(), others()[5]
    own = module.get_submodule("3").weight.clone()
    adapter = Adapter(module)
    adapter.apply([(first, 0.5), (second, -1.5)])
    wanted = own + 0.5 * first["3"].weight(own) - 1.5 * second["3"].weight(own)
    torch.testing.assert_close(module.get_submodule("3").weight, wanted)
    both = module.get_submodule("3").weight.clone()
    adapter.apply([(second, -1.5), (first, 0.5)])
    torch.testing.assert_close(module.get_submodule("3").weight, both)
    adapter.apply([(second, -1.5)])  # one is taken off
    alone = network()
    Adapter(alone).apply([(second, -1.5)])
    for name, value in alone.state_dict().items():
        assert torch.equal(value, module.state_dict()[name])


@torch.no_grad()
@pytest.mark.parametrize("live", [False, True])
def test_a_twin_leaves_the_network_alone(live: bool) -> None:
    module = network()
    plain = module(PICTURE)
    twin = sharing(module)
    Adapter(twin).apply([({"3": everything()["3"]}, 1.0)], live=live)
    assert not torch.equal(twin(PICTURE), plain)
    assert torch.equal(module(PICTURE), plain)
    assert twin.get_submodule("0").weight is module.get_submodule("0").weight


@torch.no_grad()
def test_half_precision_is_merged_in_single() -> None:
    module = network().to(torch.bfloat16)
    layer, change = module.get_submodule("3"), everything()["3"]
    assert isinstance(layer, Layer)
    wanted = (layer.weight.float() + change.weight(layer.weight.float())).to(torch.bfloat16)
    adapter = Adapter(module)
    adapter.apply([({"3": change}, 1.0)])
    assert torch.equal(layer.weight, wanted)
    adapter.apply([({"3": change}, 1.0)], live=True)
    assert module(PICTURE.to(torch.bfloat16)).dtype == torch.bfloat16


def test_the_lengths_are_those_learned() -> None:
    """DoRA, eq. 5, by hand: rows of length 1 in a matrix of rows of length 5."""
    own = torch.tensor([[3.0, 4.0], [0.0, 5.0]])
    nothing = LowRank(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)
    rows = Decomposed(nothing, torch.ones(2, 1), 0).weight(own) + own
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    columns = Decomposed(nothing, torch.tensor([[6.0, 41.0**0.5]]), 1).weight(own) + own
    torch.testing.assert_close(columns, torch.tensor([[6.0, 4.0], [0.0, 5.0]]))


def test_only_layers_with_weights_of_that_kind_are_changed() -> None:
    with pytest.raises(InputError, match="2 is a Flatten, which a LoRA cannot change"):
        Adapter(network()).apply([({"2": everything()["3"]}, 1.0)])
