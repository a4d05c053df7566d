"""Parameter groups against cases done by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toys
from torch import nn

from frugalseg.engine.run import Run
from frugalseg.nets import optim
from frugalseg.workflows.train import train


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(800, 5), nn.LayerNorm(5), nn.Linear(5, 2)
    )


def rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    """The rate of every parameter, by its name; each in one group alone."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pairs = [(names[id(p)], group["lr"]) for group in optimizer.param_groups for p in group["params"]]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def test_a_wide_new_layer_learns_more_slowly_and_the_trunk_as_it_did():
    model = network()
    config = SimpleNamespace(optimizer="adamw", lr=0.1, head_lr=1.0, weight_decay=0.01)
    found = rates(optim.two_rates(config, model, model[0], fan_in=20), model)
    expected = {
        "0.weight": 0.1,  # the trunk, although it has 27 inputs
        "0.bias": 0.1,
        "1.weight": 20 / 36,  # 4 channels × 3 × 3
        "1.bias": 1.0,
        "3.weight": 20 / 800,
        "3.bias": 1.0,
        "4.weight": 1.0,
        "4.bias": 1.0,
        "5.weight": 1.0,  # 5 inputs
        "5.bias": 1.0,
    }
    assert found == pytest.approx(expected)


def test_without_fan_in_there_are_two_rates():
    model = network()
    config = SimpleNamespace(optimizer="sgd", lr=0.1, head_lr=1.0, weight_decay=0.01, momentum=0.9)
    found = optim.two_rates(config, model, model[0])
    assert [group["lr"] for group in found.param_groups] == [0.1, 1.0]
    assert set(rates(found, model)) == dict(model.named_parameters()).keys()
    assert optim.by_inputs({"params": [], "lr": 1.0}, 20) == []


def test_one_rate_is_of_all_that_learns():
    model = network()
    model[0].requires_grad_(False)
    config = SimpleNamespace(optimizer="sgd", lr=0.1, weight_decay=0.01, momentum=0.9)
    expected = {name: 0.1 for name, _ in model.named_parameters() if not name.startswith("0.")}
    assert rates(optim.one_rate(config, model), model) == expected
    with pytest.raises(ValueError, match="nothing can learn: every layer is frozen; lower frozen"):
        optim.one_rate(config, model.requires_grad_(False))


def test_one_rate_suits_layers_of_all_widths():
    """After a step of AdamW the output of a layer moves by the same however many inputs it has."""
    moves = []
    for inputs in (256, 1024, 4096):
        layer, x = nn.Linear(inputs, 1, bias=False), torch.ones(1, inputs)
        config = SimpleNamespace(optimizer="adamw", lr=0.1, head_lr=0.001, weight_decay=0.0)
        optimizer = optim.two_rates(config, layer, nn.Identity(), fan_in=256)
        before = layer(x).item()
        layer(x).sum().backward()
        optimizer.step()
        moves.append(before - layer(x).item())
    assert moves == pytest.approx([0.256] * 3, rel=1e-3)


@pytest.mark.parametrize(("method", "wide"), [("r2ios", "refinement.fc6.weight"), ("pdsl", "detection.fc6.weight")])
def test_methods_with_wide_heads_slow_them_alone(method: str, wide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    setup, found = Run.setup, {}

    def recorded(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer):
        found.update(rates(optimizer, model))
        return setup(run, model, optimizer)

    monkeypatch.setattr(Run, "setup", recorded)
    monkeypatch.setattr(Run, "steps", lambda *_, **__: iter(()))
    small = {"backbone": "tiny", "frozen": 0, "channels": 8, "width": 8, "mask_channels": 8, "proposals": "grid", "count": 4}
    engine = {"out": str(tmp_path), "workers": 0, "accelerator": "cpu", "quiet": True}
    rates_set = {"optimizer": "adamw", "lr": 0.1, "head_lr": 1.0, "fan_in": 64}
    train(method, toys.write(tmp_path / "images"), **small, **engine, **rates_set)
    assert found[wide] == pytest.approx(64 / (8 * 49))
    assert found[wide.replace("6", "7")] == 1.0
    assert {lr for name, lr in found.items() if name.startswith(("backbone.", "fork."))} == {0.1}
