"""Gradients that are added in place are those of torch's own linear layers."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from edgepipe.engine.torch.accumulating import accumulate_in_place


def both() -> tuple[nn.Sequential, nn.Sequential]:
    """The same layers twice: as torch has them, and accumulating."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 9), nn.SiLU(), nn.Linear(9, 4, bias=False))
    ours = copy.deepcopy(plain)
    accumulate_in_place(ours)
    return plain, ours


def gradients(layers: nn.Module) -> list[torch.Tensor]:
    found = [parameter.grad for parameter in layers.parameters()]
    assert all(gradient is not None for gradient in found)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("shape", [(6,), (0, 6), (5, 6), (2, 3, 6)])
@pytest.mark.parametrize("wants_input", [False, True])
def test_microbatches_add_up(shape: tuple[int, ...], wants_input: bool) -> None:
    found = []
    for layers in both():
        torch.manual_seed(1)
        entries = [torch.randn(shape, requires_grad=wants_input) for _ in range(3)]
        outputs = [layers(entry) for entry in entries]
        for output in outputs:
            output.square().sum().backward()
        entry_gradients = [entry.grad for entry in entries if entry.grad is not None]
        assert len(entry_gradients) == (3 if wants_input else 0)
        found.append([*outputs, *entry_gradients, *gradients(layers)])
    torch.testing.assert_close(found[1], found[0])


def test_a_weight_that_two_layers_share_gets_both_gradients() -> None:
    found = []
    for accumulates in (False, True):
        torch.manual_seed(0)
        table, head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        head.weight = table.weight
        if accumulates:
            accumulate_in_place(head)
        for ids in ([1, 2], [2, 6]):
            head(table(torch.tensor(ids))).square().sum().backward()
        found += gradients(head)
    torch.testing.assert_close(found[1], found[0])


def test_what_is_computed_again_gives_the_same_gradients() -> None:
    plain, ours = both()
    entry = torch.randn(5, 6, requires_grad=True)
    plain(entry).square().sum().backward()
    checkpoint(ours, entry, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close(gradients(ours), gradients(plain))


def test_casts_and_evaluations_are_left_to_torch() -> None:
    plain, ours = both()
    entry = torch.randn(5, 6)
    with torch.no_grad():
        torch.testing.assert_close(ours(entry), plain(entry), rtol=0, atol=0)
    for layers in (plain, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layers(entry).sum().backward()
    torch.testing.assert_close(gradients(ours), gradients(plain), rtol=0, atol=0)


def test_what_is_not_trained_is_as_it_was() -> None:
    layers = nn.Sequential(nn.Linear(3, 3)).requires_grad_(False)
    accumulate_in_place(layers)
    layers(torch.ones(1, 3, requires_grad=True)).sum().backward()
    assert layers[0].weight.grad is None


def test_the_next_step_s_gradients_lie_where_the_last_ones_lay() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(6, 9, bias=False)
    ours = copy.deepcopy(plain)
    memory = accumulate_in_place(ours)
    places = []
    for given_away in (False, True, False):
        entry = torch.randn(5, 6)
        for layer in (plain, ours):
            layer.weight.grad = None
            layer(entry).square().sum().backward()
        torch.testing.assert_close(gradients(ours), gradients(plain))
        places.append(gradients(ours)[0])
        if given_away:
            kept = places[-1].clone()
            memory.give_away()
    assert places[0] is places[1]
    torch.testing.assert_close(places[1], kept, rtol=0, atol=0)
