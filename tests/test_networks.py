"""Networks: shapes, ranges, the identities that the equations promise."""

import pytest
import torch

from training.networks import ContextEncoder, Decoder, Discriminator, Encoder, Generator, Restorer
from training.networks.generator import mix

SIZE = 32


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(width=4, depth=3, n_attributes=5, shortcut_layers=2).eval()


@pytest.fixture
def face() -> torch.Tensor:
    return torch.rand(2, 3, SIZE, SIZE) * 2 - 1


@pytest.fixture
def attributes() -> torch.Tensor:
    return torch.tensor([[0.0, 1, 0, 1, 0], [1.0, 0, 0, 1, 1]])


def test_generator_gives_a_picture_of_the_same_shape_and_range(generator, face, attributes):
    protected = generator(face, attributes)
    assert protected.shape == face.shape
    assert protected.abs().max() <= 1


def test_mixing_follows_equation_6():
    """fs = beta ft + (1 - beta) perb: with beta = 0.75, ft = 4 and perb = 8, fs = 3 + 2 = 5."""
    (mixed,) = mix([torch.tensor([4.0])], [torch.tensor([8.0])], strength=0.25)
    assert mixed.item() == 5.0


def test_no_strength_means_the_attribute_edited_face(generator, face, attributes):
    torch.nn.init.normal_(generator.perturbation_encoder.layers[0][0].weight)
    edited = generator.edit(face, attributes)
    torch.testing.assert_close(generator(face, attributes, 0.0, 0.0), edited)
    assert not torch.allclose(generator(face, attributes, 1.0, 0.0), edited)


def test_a_fresh_generator_perturbs_nothing(generator, face, attributes):
    """E_adv starts from G_enc, so both encoders agree whatever the strength."""
    torch.testing.assert_close(generator(face, attributes, 0.7), generator.edit(face, attributes))


def test_full_injection_gives_the_clean_branch(generator, face, attributes):
    torch.nn.init.normal_(generator.perturbation_encoder.layers[0][0].weight)
    torch.testing.assert_close(
        generator(face, attributes, 1.0, 1.0), generator.edit(face, attributes), atol=1e-6, rtol=0
    )


def test_strength_and_injection_may_differ_by_face(generator, face, attributes):
    torch.nn.init.normal_(generator.perturbation_encoder.layers[0][0].weight)
    strength = torch.tensor([0.2, 0.9]).view(2, 1, 1, 1)
    injection = torch.tensor([0.5, 0.0]).view(2, 1, 1, 1)
    together = generator(face, attributes, strength, injection)
    for i in range(2):
        alone = generator(face[i : i + 1], attributes[i : i + 1], float(strength[i]), float(injection[i]))
        torch.testing.assert_close(together[i : i + 1], alone)


def test_restorer_starts_from_the_generator_without_its_attribute_channels(generator, face):
    """With all attributes 0 their channels add nothing: R must then equal G's clean branch."""
    restorer = Restorer(width=4, depth=3, shortcut_layers=2).eval()
    restorer.start_from(generator)
    torch.testing.assert_close(restorer(face), generator.edit(face, torch.zeros(2, 5)))


def test_discriminator_heads():
    discriminator = Discriminator(image_size=SIZE, width=4, depth=3, n_attributes=5, hidden=8, max_channels=8)
    real, attributes = discriminator(torch.zeros(3, 3, SIZE, SIZE))
    assert real.shape == (3, 1)
    assert attributes.shape == (3, 5)


def test_decoder_says_what_it_expects_of_its_layers():
    with pytest.raises(ValueError, match=r"expected shortcut_layers and inject_layers in 0\.\.2"):
        Decoder(width=4, depth=3, n_attributes=1, shortcut_layers=3)


def test_context_starts_as_the_plain_encoder_and_then_sees_further(face):
    torch.manual_seed(0)
    plain, context = Encoder(width=4, depth=3).eval(), ContextEncoder(width=4, depth=3, levels=2).eval()
    context.layers.load_state_dict(plain.layers.state_dict())
    for own, other in zip(context(face), plain(face), strict=True):
        torch.testing.assert_close(own, other)
    for refinement in context.refinements:
        torch.nn.init.normal_(refinement[-1].weight)
    changed = face.clone()
    changed[:, :, :4, :4] += 1  # the far corner's first feature sees 4 pixels, not these
    far = (slice(None), slice(None), -4, -4)
    assert torch.equal(plain(face)[0][far], plain(changed)[0][far])
    moved = [c - f for c, f in zip(context(changed), context(face), strict=True)]
    assert moved[0][:, :, 6, 6].abs().max() > 0  # 12 pixels down: only context reaches there


def test_a_fresh_generator_with_context_perturbs_nothing_and_trains_it(face, attributes):
    torch.manual_seed(0)
    generator = Generator(
        width=4, depth=3, n_attributes=5, shortcut_layers=2, perturbation_context=True
    ).eval()
    protected = generator(face, attributes, 0.7)
    torch.testing.assert_close(protected, generator.edit(face, attributes))
    protected.square().sum().backward()
    assert all(r[-1].weight.grad.abs().sum() > 0 for r in generator.perturbation_encoder.refinements)
    for parameter in generator.perturbation_encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    assert not torch.allclose(generator(face, attributes, 0.7), generator.edit(face, attributes))
    generator.start_perturbation_from_encoder()  # whatever was trained is forgotten
    torch.testing.assert_close(generator(face, attributes, 0.7), generator.edit(face, attributes))
