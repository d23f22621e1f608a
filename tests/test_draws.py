"""Random numbers of a batch: its parts together get what the whole batch gets."""

import numpy as np
import pytest
import torch

from tests.tiny_training import SIZE, tiny_pack
from training.batches import take
from training.draws import Draws
from training.noise_pool import NoisePool
from training.stages.publish import Realignment

ROWS = ([0, 2, 4], [1, 3, 5])


def parts_and_whole(draw):
    """``draw(draws, rows)`` for two parts of six faces, put together again, and for all of them."""
    result = []
    for rows in (*ROWS, None):
        torch.manual_seed(0)
        index = torch.arange(6) if rows is None else torch.tensor(rows)
        result.append(draw(Draws(6, None if rows is None else index), index))
    together = torch.empty_like(result[2])
    for rows, part in zip(ROWS, result[:2], strict=True):
        together[rows] = part
    return together, result[2]


@pytest.mark.parametrize(
    "draw",
    [
        lambda draws, rows: draws.uniform(),
        lambda draws, rows: draws.normal(2),
        lambda draws, rows: draws.normal_like(torch.empty(len(rows), 5, 2)),
    ],
)
def test_parts_draw_what_the_whole_batch_draws(draw):
    together, whole = parts_and_whole(draw)
    assert torch.equal(together, whole)
    assert len(whole.unique()) == whole.numel()


@pytest.mark.parametrize("member", ["jpeg", "gaussian"])
def test_a_part_meets_the_noise_it_meets_in_the_whole_batch(member):
    faces = torch.rand(6, 3, 16, 16) * 2 - 1
    pool = NoisePool(jpeg_quality=(20.0, 95.0))
    together, whole = parts_and_whole(lambda draws, rows: getattr(pool, member)(faces[rows], draws))
    torch.testing.assert_close(together, whole)


def test_a_part_is_realigned_as_in_the_whole_batch():
    faces = torch.rand(6, 3, 16, 16)
    together, whole = parts_and_whole(
        lambda draws, rows: Realignment.draw(0.1, draws).pictures(faces[rows])[0]
    )
    torch.testing.assert_close(together, whole)


@pytest.mark.parametrize(
    "part",
    [
        torch.empty(4, 3, 8, 8),
        torch.empty(4, 3, 8, 8).to(memory_format=torch.channels_last),
        torch.empty(4, 6, 8, 8).split(3, dim=1)[1],
        torch.empty(4, 5, 2),
    ],
    ids=["contiguous", "channels last", "a part of the channels", "points"],
)
def test_noise_for_a_whole_batch_is_randn_like(part):
    """Bit for bit, so that runs from before the draws were divided go on as they were."""
    torch.manual_seed(3)
    expected = torch.randn_like(part)
    torch.manual_seed(3)
    drawn = Draws(4).normal_like(part)
    assert torch.equal(drawn, expected)
    assert drawn.stride() == expected.stride()


def test_a_part_of_a_batch_knows_the_attributes_of_all():
    indices, mirrored = np.arange(6), np.array([True, False] * 3)
    whole = take(tiny_pack(), indices, mirrored)
    part = take(tiny_pack(), indices, mirrored, np.array([4, 1, 0, 3]))
    assert torch.equal(part.all_attributes, whole.attributes)
    halves = part.split(2)
    for half, rows in zip(halves, ([4, 1], [0, 3]), strict=True):
        for name in ("face", "landmarks", "attributes", "keys"):
            assert torch.equal(getattr(half, name), getattr(whole, name)[rows])
        assert torch.equal(half.draws.mine(whole.face), half.face)
    assert whole.split(1)[0] is whole
    assert whole.face.shape == (6, 3, SIZE, SIZE)
