"""Stage 1: which attributes each picture is decoded with, and what each loss is of."""

import numpy as np
import torch

from tests.tiny_training import tiny_pack, tiny_run
from training import losses
from training.batches import take


def test_each_loss_of_stage_1_is_of_its_own_pictures(tmp_path):
    """Eq. 14: own attributes give the source back, another face's are what D_att must find."""
    run = tiny_run(tmp_path)
    stage, networks = run.stages[0], run.networks
    networks.generator.eval()  # both decodings are one batch, with one batch's statistics
    torch.manual_seed(3)
    batch = take(tiny_pack(), np.arange(8), np.zeros(8, dtype=bool))
    outputs = stage.forward(batch, 0)
    assert sorted(outputs.other.tolist()) == sorted(batch.attributes.tolist())
    assert not torch.equal(outputs.other, batch.attributes)
    for found, attributes in ((outputs.reconstructed, batch.attributes), (outputs.edited, outputs.other)):
        torch.testing.assert_close(found, networks.generator.edit(batch.face, attributes))

    found = stage._generator_losses(outputs) | stage._discriminator_losses(outputs)
    real, own = networks.discriminator(batch.face)
    fake, edited = networks.discriminator(outputs.edited)
    expected = {
        "reconstruction": losses.reconstruction_loss(outputs.reconstructed, batch.face),
        "attribute": losses.attribute_loss(edited, outputs.other),
        "generator": losses.generator_loss(fake),
        "discriminator": losses.discriminator_loss(real, fake),
        "attribute_real": losses.attribute_loss(own, batch.attributes),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_the_discriminators_losses_teach_the_discriminator_alone(tmp_path):
    run = tiny_run(tmp_path)
    batch = take(tiny_pack(), np.arange(8), np.zeros(8, dtype=bool))
    outputs = run.stages[0].forward(batch, 0)
    sum(run.stages[0]._discriminator_losses(outputs).values()).backward()
    assert all(parameter.grad is None for parameter in run.networks.generator.parameters())
    assert any(parameter.grad.abs().max() > 0 for parameter in run.networks.discriminator.parameters())
