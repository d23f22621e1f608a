"""Several processes and micro-batches: two ranks train as one does, the meta step included."""

import dataclasses
import os
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny_training import CONFIG, Silent, settings, tiny_run, weights_of
from training.checkpoint import load_checkpoint
from training.meta_attack import meta_auxiliary_attack
from training.noise_pool import NoisePool
from training.presets import COMPACT, GPU_25MIN
from training.ranks import Ranks, ScaleError, launch

RANKS = 2
# Every source of randomness, a curved inner step, and shares of which every rank can have a part.
BASE = dataclasses.replace(
    settings(inner_lr=5.0, landmark_jitter=0.02, edit_share=0.5, primaries_per_step=0),
    attack=dataclasses.replace(CONFIG.attack, batch=6, epochs=2),
    erasure=dataclasses.replace(CONFIG.erasure, batch=6, epochs=2),
    noise=NoisePool(jpeg_quality=(50.0, 95.0), resize_factor=0.5, clean_share=0.0),
    realignment=0.05,
)
SHARED = dataclasses.replace(
    BASE, attack_settings=dataclasses.replace(BASE.attack_settings, share_batch=True)
)
CASES = {"attack": ("attack", BASE), "attack, shared": ("attack", SHARED), "erasure": ("erasure", BASE)}


def first_step(folder: Path, first: Path, case: str, ranks: Ranks | None = None):
    """Figures of a stage's first step, and each player's gradients."""
    stage, config = CASES[case]
    run = tiny_run(folder, config, ranks=ranks, continues=first, first_stage=stage)
    monitor = Silent()
    run.train(monitor, stop_after_steps=1)
    [(_, figures)] = monitor.figures
    return figures, gradients_of(run)


def gradients_of(run):
    players = run.stages[run.at.stage].players
    return {
        player.name: torch.cat([p.grad.flatten() for p in player.parameters() if p.grad is not None])
        for player in players
    }


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def toy_attack(rows: list[int], epsilon: float, mean_over_ranks=list) -> tuple[float, torch.Tensor]:
    """L_adv and its gradient for a few float64 numbers; a rank's part of four samples."""
    theta = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)
    samples = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.3, -0.8], [2.0, 1.0]], dtype=torch.float64)[rows]
    result = meta_auxiliary_attack(
        lambda parameters: torch.tanh(samples @ parameters["theta"]),
        lambda protected: protected,
        [lambda x, c=c: ((x - c) ** 2).mean() for c in (0.2, 0.9, -0.5)],
        {"theta": theta},
        weights=torch.tensor([1.1, 1.2, 1.3], dtype=torch.float64),
        primaries=[0, 1, 2],
        inner_lr=0.5,
        epsilon=epsilon,
        mean_over_ranks=mean_over_ranks,
    )
    result.total.backward()
    return result.total.item(), theta.grad


def toy_bound() -> float:
    """Between the losses of the two halves: one is above it, the other below, and so is the whole."""
    halves = [toy_attack(rows, -1e9)[0] for rows in ([0, 1], [2, 3])]
    return (toy_attack([0, 1, 2, 3], -1e9)[0] + min(halves)) / 2


def work(rank: int, folder: Path, port: int) -> None:
    """What each of two processes does; they are started as ``torchrun`` starts them."""
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
    }
    torch.set_num_threads(1)
    ranks = launch(accelerator="cpu")
    first = folder / "first"
    steps = {case: first_step(folder / f"two {case}", first, case, ranks) for case in CASES}

    whole = tiny_run(folder / "whole", SHARED, ranks=ranks, continues=first, first_stage="attack")
    whole.train(Silent())
    for _ in range(2):
        killed = tiny_run(folder / "killed", SHARED, ranks=ranks, continues=first, first_stage="attack")
        killed.train(Silent(), stop_after_steps=1)
    killed = tiny_run(folder / "killed", SHARED, ranks=ranks)
    killed.train(Silent())

    toy = {}
    for name, epsilon in (("free", -1e9), ("bounded", toy_bound())):
        total, gradient = toy_attack([2 * rank, 2 * rank + 1], epsilon, ranks.mean)
        toy[name] = (total, ranks.mean([gradient])[0])

    torch.manual_seed(rank)
    placed = ranks.place(nn.Linear(3, 2))
    try:
        tiny_run(folder / "refused", BASE, ranks=ranks)
        refusal = ""
    except ScaleError as error:
        refusal = str(error)
    result = {
        "steps": steps,
        "networks": {n: m.state_dict() for n, m in whole.networks.items().items()},
        "toy": toy,
        "placed": placed.weight.detach(),
        "refusal": refusal,
        "first": ranks.first,
    }
    torch.save(result, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """Folder and results of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny_run(folder / "first", BASE).train(Silent(), stop_after_steps=2 + 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, args=(folder, port), nprocs=RANKS)
    return folder, [torch.load(folder / f"rank{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_gradients_and_figures_of_one(two_ranks, tmp_path, case):
    folder, results = two_ranks
    figures, gradients = first_step(tmp_path, folder / "first", case)
    for result in results:
        found_figures, found = result["steps"][case]
        assert found_figures == pytest.approx(figures, rel=1e-5)
        assert found.keys() == gradients.keys()
        for player, gradient in gradients.items():
            assert gradient.norm() > 0
            assert relative_error(found[player], gradient) < 1e-5, player


def test_the_meta_step_and_its_bound_are_the_whole_batchs(two_ranks):
    """In float64; with the bound below the whole batch's loss, but above that of one of the halves."""
    _, results = two_ranks
    for name, epsilon in (("free", -1e9), ("bounded", toy_bound())):
        total, gradient = toy_attack([0, 1, 2, 3], epsilon)
        assert total > epsilon
        for result in results:
            found_total, found = result["toy"][name]
            assert found_total == pytest.approx(total, rel=1e-12)
            torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-14)


def test_ranks_stay_equal_and_start_from_the_first_ones_weights(two_ranks):
    _, (one, other) = two_ranks
    assert torch.equal(one["placed"], other["placed"])
    for name, tensors in one["networks"].items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, other["networks"][name][key]), (name, key)
    assert [one["first"], other["first"]] == [True, False]


def test_two_ranks_killed_and_continued_equal_two_uninterrupted_ones(two_ranks):
    folder, _ = two_ranks
    assert load_checkpoint(folder / "killed")["about"]["stage"] == "done"
    whole, killed = weights_of(folder / "whole"), weights_of(folder / "killed")
    for name, tensor in whole.items():
        assert torch.equal(killed[name], tensor), name


def test_batch_norm_does_not_train_on_a_ranks_own_statistics(two_ranks):
    _, results = two_ranks
    for result in results:
        assert "needs the statistics of the whole batch, which 2 CPU processes cannot" in result["refusal"]


def accumulated(config, parts):
    return dataclasses.replace(config, accumulate=parts)


@pytest.mark.parametrize(
    ("stage", "steps_before", "config"),
    [
        ("attributes", 0, BASE),
        ("attack", 2, dataclasses.replace(SHARED, attack_settings=dataclasses.replace(
            SHARED.attack_settings, meta_every=10**6, epsilon=-1e9))),
        ("erasure", 4, BASE),
    ],
    ids=["attributes", "attack", "erasure"],
)  # fmt: skip
def test_micro_batches_have_the_whole_batchs_gradients(tmp_path, monkeypatch, stage, steps_before, config):
    """Stage 1 with frozen batch statistics, stage 2 without its meta step: all else is a mean over faces."""
    monkeypatch.setattr(nn.BatchNorm2d, "train", lambda self, mode=True: nn.Module.train(self, False))
    results = []
    for parts in (1, 2):
        run = tiny_run(tmp_path / str(parts), accumulated(config, parts))
        if steps_before:
            run.at.stage = {"attack": 1, "erasure": 2}[stage]
            run.at.global_step = 1  # not a meta step
            run.stages[run.at.stage].begin()
            run._begin_stage()
        monitor = Silent()
        run.train(monitor, stop_after_steps=1)
        assert monitor.figures[0][0] == stage
        results.append((monitor.figures[0][1], gradients_of(run)))
    (figures, gradients), (found_figures, found) = results
    assert found_figures == pytest.approx(figures, rel=1e-4)
    for player, gradient in gradients.items():
        assert relative_error(found[player], gradient) < 1e-5, player


def test_micro_batches_resume_and_are_part_of_the_configuration(tmp_path):
    config = accumulated(dataclasses.replace(BASE, attack=CONFIG.attack), 2)
    tiny_run(tmp_path / "whole", config).train(Silent())
    for _ in range(9):
        tiny_run(tmp_path / "killed", config).train(Silent(), stop_after_steps=1)
    whole, killed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert all(torch.equal(killed[name], tensor) for name, tensor in whole.items())
    with pytest.raises(ValueError, match="expected accumulate >= 1, found 0"):
        accumulated(config, 0)


def ranks_of(count: int, rank: int) -> Ranks:
    return Ranks(SimpleNamespace(world_size=count, global_rank=rank))


def test_every_micro_batch_has_its_part_of_every_share():
    """12 faces in 3 shares of 4: with 2 ranks x 2 micro-batches each micro-batch has one of each."""
    rows = [ranks_of(2, rank).rows(12, micro_batches=2, shares=3) for rank in range(2)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(12))
    assert [row.tolist() for row in rows] == [[0, 4, 8, 2, 6, 10], [1, 5, 9, 3, 7, 11]]
    assert ranks_of(1, 0).rows(7, micro_batches=1, shares=3) is None


def test_a_batch_that_cannot_be_divided_is_refused(tmp_path):
    with pytest.raises(
        ScaleError, match=r"a batch of 8 faces cannot be divided .* 2 process.* 1 micro.* 3 share\(s\) = 6"
    ):
        ranks_of(2, 0).rows(8, micro_batches=1, shares=3)
    with pytest.raises(ScaleError, match="a batch of 4 faces cannot be divided equally"):
        tiny_run(tmp_path / "run", accumulated(CONFIG, 3))
    assert not (tmp_path / "run").exists()


def test_launching_says_what_it_cannot_do(monkeypatch):
    with pytest.raises(ScaleError, match="expected the precision fp32 or bf16, found 'fp8'"):
        launch(precision="fp8")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ScaleError, match=r"expected 2 CUDA device\(s\), found 1"):
        launch(accelerator="cuda", devices=2)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ScaleError, match=r"torchrun started 4 process\(es\) here, --devices says 2"):
        launch(accelerator="cpu", devices=2)


def test_one_process_is_left_as_it_is():
    ranks = launch(accelerator="cpu")
    tensors = [torch.ones(2), torch.zeros(3)]
    assert all(a is b for a, b in zip(ranks.mean(tensors), tensors, strict=True))
    assert (ranks.count, ranks.first, ranks.device.type) == (1, True, "cpu")


def test_ranks_wait_for_the_first_of_all_while_it_prepares_a_data_set(monkeypatch):
    given = {}
    monkeypatch.setattr("training.ranks.DDPStrategy", lambda **options: options)
    monkeypatch.setattr(
        "training.ranks.Fabric", lambda **options: given.update(options) or SimpleNamespace(launch=int)
    )
    launch(accelerator="cpu", devices=2)
    assert given["strategy"]["timeout"].total_seconds() == 24 * 3600
    by_machine = Ranks(SimpleNamespace(rank_zero_first=lambda local=False: local)).first_goes_ahead()
    assert not by_machine


@pytest.mark.parametrize("preset", [COMPACT, GPU_25MIN], ids=lambda preset: preset.name)
def test_batches_divide_among_two_processes_and_three_surrogates(preset):
    for stage, shares in ((preset.attributes, 1), (preset.attack, 3), (preset.erasure, 3)):
        assert ranks_of(2, 0).rows(stage.batch, micro_batches=1, shares=shares) is not None
