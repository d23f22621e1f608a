"""Rewrites are equal to the trained network in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from export.errors import ExportError
from export.rewrites import (
    BatchedBranches,
    EarlyMix,
    JoinedEncoders,
    SubpixelUp,
    fold_batch_norms,
    to_subpixel,
)
from runtime.subpixel import SubpixelForm
from training.networks import Encoder, Generator, Restorer

# Rounding of float64 through some ten layers; a wrong sign or axis is off by a tenth or more.
TOLERANCE = 1e-12


def lived_in(network: nn.Module) -> nn.Module:
    """Batch norms as training leaves them: no statistic, scale or shift at its initial value."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.2, 3.0)
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return network.double().eval()


def batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_generator_folds_exactly() -> None:
    network = lived_in(Generator(width=4, depth=3, n_attributes=5, shortcut_layers=2, inject_layers=1))
    folded = fold_batch_norms(network)
    face, attributes = torch.rand(3, 3, 32, 32).double() * 2 - 1, torch.rand(3, 5).double()
    knobs = torch.tensor([0.0, 0.4, 1.0]).double().reshape(3, 1, 1, 1)
    with torch.no_grad():
        expected = network(face, attributes, strength=knobs, injection=knobs.flip(0))
        found = folded(face, attributes, strength=knobs, injection=knobs.flip(0))
    assert (expected - found).abs().max() < TOLERANCE
    assert batch_norms(folded) == 0


def test_restorer_folds_exactly() -> None:
    network = lived_in(Restorer(width=4, depth=3, shortcut_layers=2))
    face = torch.rand(2, 3, 32, 32).double() * 2 - 1
    with torch.no_grad():
        assert (network(face) - fold_batch_norms(network)(face)).abs().max() < TOLERANCE


@pytest.mark.parametrize("groups", [1, 2])
def test_grouped_convolution_folds(groups: int) -> None:
    network = lived_in(nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups, bias=False), nn.BatchNorm2d(6)))
    x = torch.randn(2, 4, 8, 8).double()
    with torch.no_grad():
        outer = fold_batch_norms(nn.Sequential(network).eval())
        assert (network(x) - outer(x)).abs().max() < TOLERANCE


def test_the_network_given_is_not_changed() -> None:
    network = lived_in(Restorer(width=4, depth=3))
    before = copy.deepcopy(network.state_dict())
    fold_batch_norms(network)
    assert batch_norms(network) == 5
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_training_mode_is_refused() -> None:
    with pytest.raises(ExportError, match="evaluation mode only"):
        fold_batch_norms(Restorer(width=4, depth=3))


def test_a_batch_norm_after_no_convolution_is_refused_by_name() -> None:
    network = nn.Sequential(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))).eval()
    with pytest.raises(ExportError, match=r"not so: 0\.1"):
        fold_batch_norms(network)


def test_a_grouped_transposed_convolution_is_refused() -> None:
    layers = nn.Sequential(nn.ConvTranspose2d(4, 4, 4, groups=2), nn.BatchNorm2d(4))
    with pytest.raises(ExportError, match="one group only"):
        fold_batch_norms(nn.Sequential(layers).eval())


@pytest.mark.parametrize("form", ["2x2", "3x3"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_is_a_subpixel_convolution(form: SubpixelForm, bias: bool) -> None:
    transposed = nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1, bias=bias).double()
    x = torch.randn(2, 5, 7, 4).double()
    with torch.no_grad():
        assert (transposed(x) - SubpixelUp(transposed, form)(x)).abs().max() < TOLERANCE


def test_the_2x2_form_multiplies_nothing_in_vain() -> None:
    transposed = nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1)
    assert SubpixelUp(transposed, "2x2").conv.weight.numel() == transposed.weight.numel()
    three = SubpixelUp(transposed, "3x3").conv.weight
    assert (three == 0).sum() == three.numel() * 5 // 9


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"kernel_size": 4, "stride": 1}, {"kernel_size": 4, "groups": 2}]
)
def test_another_transposed_convolution_is_no_subpixel_convolution(options: dict[str, int]) -> None:
    layer = nn.ConvTranspose2d(4, 4, **{"stride": 2, "padding": 1, **options})
    with pytest.raises(ExportError, match="expected a transposed convolution 4x4, stride 2, padding 1"):
        to_subpixel(nn.Sequential(layer), "2x2")


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("form", [None, "2x2", "3x3"])
def test_all_rewrites_of_the_generator_together_are_exact(
    context: bool, joined: bool, form: SubpixelForm | None
) -> None:
    torch.manual_seed(1)
    network = Generator(
        width=4, depth=3, n_attributes=5, shortcut_layers=2, inject_layers=1, perturbation_context=context
    )
    for parameter in network.perturbation_encoder.parameters():
        nn.init.normal_(parameter, std=0.2)  # unlike the encoder's
    network = lived_in(network)
    folded = fold_batch_norms(network)
    rewritten = to_subpixel(folded, form) if form else folded
    encoders = JoinedEncoders(folded.encoder, folded.perturbation_encoder) if joined else None
    face, attributes = torch.rand(3, 3, 32, 32).double() * 2 - 1, torch.rand(3, 5).double()
    knobs = torch.tensor([0.1, 0.4, 1.0]).double().reshape(3, 1, 1, 1)
    with torch.no_grad():
        expected = network(face, attributes, strength=knobs, injection=knobs.flip(0))
        found = BatchedBranches(rewritten, encoders)(
            face, attributes, strength=knobs, injection=knobs.flip(0)
        )
        clean = network.edit(face, attributes)
    assert (expected - clean).abs().max() > 0.01
    assert (expected - found).abs().max() < TOLERANCE


def test_encoders_with_batch_norms_do_not_join() -> None:
    network = Generator(width=4, depth=3, n_attributes=5).eval()
    with pytest.raises(ExportError, match="layer with a folded batch norm"):
        JoinedEncoders(network.encoder, network.perturbation_encoder)


@pytest.mark.parametrize("other", [{"width": 8, "depth": 3}, {"width": 4, "depth": 4}])
def test_encoders_of_two_sizes_do_not_join(other: dict[str, int]) -> None:
    first, second = (fold_batch_norms(Encoder(**sizes).eval()) for sizes in ({"width": 4, "depth": 3}, other))
    with pytest.raises(ExportError, match="expected two encoders of one"):
        JoinedEncoders(first, second)


@pytest.mark.parametrize("form", ["2x2", "3x3"])
def test_mixing_before_the_pixels_are_placed_is_exact(form: SubpixelForm) -> None:
    network = lived_in(Generator(width=4, depth=3, n_attributes=5, shortcut_layers=2, inject_layers=1))
    face, attributes = torch.rand(3, 3, 32, 32).double() * 2 - 1, torch.rand(3, 5).double()
    knobs = torch.tensor([0.0, 0.4, 1.0]).double().reshape(3, 1, 1, 1)
    subpixel = to_subpixel(fold_batch_norms(network), form)
    assert isinstance(subpixel, Generator)
    with torch.no_grad():
        expected = network(face, attributes, strength=knobs, injection=knobs.flip(0))
        found = EarlyMix(subpixel)(face, attributes, knobs, knobs.flip(0))
    assert (expected - found).abs().max() < TOLERANCE
    with pytest.raises(ExportError, match="expected a decoder after to_subpixel, found the layer Sequential"):
        EarlyMix(network)
