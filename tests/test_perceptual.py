"""LPIPS with a trunk from a file: loading, refusing, and what a distance must be."""

import pytest
import torch
import torchvision

from training.perceptual import Lpips, PerceptualError


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """AlexNet's features with random weights, as torchvision would save the whole network."""
    torch.manual_seed(0)
    features = torchvision.models.alexnet(weights=None).features
    path = tmp_path_factory.mktemp("trunk") / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path


def test_distance_is_zero_for_equal_pictures_and_grows_with_noise(trunk):
    distance = Lpips("alex", trunk)
    torch.manual_seed(0)
    picture = torch.rand(2, 3, 64, 64) * 2 - 1
    noise = torch.randn_like(picture)
    little, much = distance(picture + 0.02 * noise, picture), distance(picture + 0.3 * noise, picture)
    assert little.shape == (2,)
    torch.testing.assert_close(distance(picture, picture), torch.zeros(2))
    assert (little > 0).all()
    assert (little < much).all()


def test_only_the_pictures_get_gradients(trunk):
    distance = Lpips("alex", trunk)
    picture = torch.rand(1, 3, 64, 64).requires_grad_()
    distance(picture, torch.zeros(1, 3, 64, 64)).sum().backward()
    assert picture.grad.isfinite().all()
    assert picture.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_black_and_white_enter_the_trunk_as_imagenets_do(trunk):
    """ImageNet's means (0.485, 0.456, 0.406) and deviations (0.229, 0.224, 0.225) of pictures in [0, 1]."""
    seen = []
    distance = Lpips("alex", trunk)
    distance.distance.scaling_layer.register_forward_hook(lambda _, inputs, output: seen.append(output))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    distance(-torch.ones(1, 3, 64, 64), torch.ones(1, 3, 64, 64))
    for entered, level in zip(seen, (0.0, 1.0), strict=True):
        torch.testing.assert_close(entered[0, :, 5, 5], (level - mean) / deviation, rtol=0, atol=0.01)


def test_features_alone_are_accepted_too(trunk, tmp_path):
    state = {name.removeprefix("features."): value for name, value in torch.load(trunk).items()}
    torch.save(state, tmp_path / "features.pth")
    picture, other = torch.rand(2, 1, 3, 64, 64)
    torch.testing.assert_close(
        Lpips("alex", tmp_path / "features.pth")(picture, other), Lpips("alex", trunk)(picture, other)
    )


def test_another_networks_weights_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(PerceptualError, match=r"expected torchvision's layer 0.weight of \(64, 3, 11, 11\)"):
        Lpips("alex", tmp_path / "other.pth")


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(PerceptualError, match="cannot be read as a state dict"):
        Lpips("alex", tmp_path / "broken.pth")


def test_nothing_is_downloaded():
    with pytest.raises(PerceptualError, match=r"get them: python scripts/lpips_trunk\.py vgg vgg\.pth"):
        Lpips("vgg")
