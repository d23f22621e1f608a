"""``python -m export.recover``: a training run's networks again, from the two bundles made of it.

A bundle says all that export kept of a run: whoever has no checkpoint any more, or never had one, goes on
training the networks of a bundle this way (``python -m training --continue``) or exports them in another
precision. Batch norms come back as what they were folded into: statistics of 0 and 1, all of it in scale
and bias. The head that tells real from generated faces is in no bundle, and comes back untrained.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import click
import onnx
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from runtime.authority import Secret, load_secret, unseal_model
from runtime.errors import ErasableMaskError
from runtime.manifest import Bundle, open_bundle
from training.checkpoint import CHECKPOINT_NAME, save_checkpoint
from training.config import RunConfig
from training.presets import PRESETS

from .bundle import RESTORE
from .errors import ExportError
from .faces import inputs_of, synthetic_faces
from .parity import compare, gate, in_backend, in_torch, outputs_of
from .precision import FP16_SUFFIX
from .run import FINISHED
from .wrappers import AttributesExport, ProtectExport, RestoreExport

EXAMPLE = """\b
Example:
  python -m export.recover --bundle runtime/bundles/compact \\
      --key-file runtime/bundles/compact/authority/demo.key --out runs/recovered
"""

WHOLE_WEIGHTS = ("fp32", "fp16")
_COMPARED_FACES = 8
# What export adds to a run's own description.
_OF_THE_BUNDLE = ("config_sha256", "target_embeddings")

logger = logging.getLogger(__name__)


@click.command(epilog=EXAMPLE)
@click.option(
    "--bundle",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder of public/ and authority/.",
)
@click.option("--preset", help="That the networks have the sizes of; default: the bundle's name.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the run.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="The authority's key; without it a passphrase is asked.",
)
def main(bundle: Path, preset: str | None, out: Path, key_file: Path | None) -> None:
    """Writes OUT/checkpoint.pt with the networks of a bundle, the restorer in clear like in every run.

    Like a slim checkpoint it can be exported and continued, not resumed.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    passphrase = None if key_file else click.prompt("Passphrase", hide_input=True, err=True)
    try:
        recover(bundle, load_secret(key_file, passphrase), out, preset=preset)
    except ErasableMaskError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{out / CHECKPOINT_NAME}: {(out / CHECKPOINT_NAME).stat().st_size / 2**20:.1f} MiB")


def recover(folder: Path, secret: Secret, out: Path, *, preset: str | None = None) -> None:
    """Writes a slim checkpoint with a bundle's networks, compared with the bundle's files first.

    Args:
        folder: of ``public`` and ``authority``.
        secret: opens the restorer.
        out: the new run's folder, which is then its owner's alone.
        preset: whose network sizes the bundle has; None for the one it is named after.

    Raises:
        ErasableMaskError: a bundle or the secret cannot be used, the two bundles are not of one run, their
            weights are not those of the preset's networks or in another precision than fp32 and fp16, or
            ``out`` has a checkpoint already.
    """
    if (out / CHECKPOINT_NAME).exists():
        raise ExportError(f"{out / CHECKPOINT_NAME} exists already; give a new folder")
    public, authority = open_bundle(folder / "public"), open_bundle(folder / "authority")
    config = _configuration(public, authority, preset)
    files = {
        "protect": public.read("protect"),
        "attributes": public.read("attributes"),
        RESTORE: unseal_model(authority, secret),
    }
    torch.manual_seed(config.seed)
    networks = config.network.networks()
    wrapped = {
        "protect": ProtectExport(networks.generator),
        "attributes": AttributesExport(networks.discriminator),
        RESTORE: RestoreExport(networks.restorer),
    }
    faces = synthetic_faces(_COMPARED_FACES, config.network.image_size)
    for name, module in wrapped.items():
        fill(module.eval(), weights_of(onnx.load_from_string(files[name])))
        inputs = inputs_of(name, faces, config.network.n_attributes)
        expected, found = (
            outputs_of(run, inputs) for run in (in_backend(name, files[name]), in_torch(module))
        )
        gate(compare(name, expected, found), "fp32")
    logger.warning("the discriminator's head for real and generated faces is in no bundle: untrained")
    training = public.manifest.training
    if not authority.manifest.demo:
        logger.warning("%s holds the restorer in clear; keep it as you keep the key", out)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    out.chmod(0o700)
    save_checkpoint(
        out,
        {
            "config": config.to_dict(),
            "about": {
                **{key: value for key, value in training.items() if key not in _OF_THE_BUNDLE},
                "attributes": list(public.manifest.attributes),
                "target": public.manifest.target,
                "stage": FINISHED,
                "recovered": {
                    name: entry.sha256
                    for bundle in (public, authority)
                    for name, entry in bundle.manifest.models.items()
                    if name in wrapped
                },
            },
            "position": {"stage": 3, "epoch": 0, "step": 0, "global_step": training.get("steps", 0)},
            "averaged": {name: network.state_dict() for name, network in networks.items().items()},
        },
    )


def weights_of(model: ModelProto) -> dict[str, Tensor]:
    """A graph's weights in float32, by the names that they have in the module it was traced from.

    Equal vectors were merged into one, so each bias is looked up where it is used.
    """
    values = {
        initializer.name.removesuffix(FP16_SUFFIX): numpy_helper.to_array(initializer)
        for initializer in model.graph.initializer
    }
    biases = {
        f"{node.input[1].removesuffix('.weight')}.bias": values[node.input[2]]
        for node in model.graph.node
        if len(node.input) == 3 and node.input[1].endswith(".weight") and node.input[2] in values
    }
    return {name: torch.tensor(value) for name, value in {**values, **biases}.items()}


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives a module the weights of a graph that was made of it by ``fold_batch_norms``.

    Raises:
        ExportError: a weight is missing or has another shape.
    """
    state = module.state_dict()
    wanted = {name for name in state if not name.rpartition(".")[2].startswith("num_batches")}
    found = {name: value.float() for name, value in weights.items() if name in wanted}
    for name, layers in module.named_modules():
        if not isinstance(layers, nn.Sequential):
            continue
        for index, (before, norm) in enumerate(zip(layers, list(layers)[1:], strict=False)):
            if isinstance(norm, nn.BatchNorm2d) and isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
                bias = weights.get(f"{name}.{index}.bias")
                if bias is not None:
                    found |= _unfolded(f"{name}.{index + 1}", norm, bias)
    for name in wanted - found.keys():  # a bias of zeros is left out of the graph
        if name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in weights:
            found[name] = torch.zeros_like(state[name])
    if missing := sorted(wanted - found.keys()):
        raise ExportError(
            f"expected the weights of {type(module).__name__}, the file lacks {', '.join(missing[:3])}; "
            "give the --preset it was trained with"
        )
    for name, value in found.items():
        if value.shape != state[name].shape:
            raise ExportError(
                f"expected {name} of shape {tuple(state[name].shape)}, found {tuple(value.shape)}; give the "
                "--preset it was trained with"
            )
    module.load_state_dict(found, strict=False)


def _unfolded(name: str, norm: nn.BatchNorm2d, bias: Tensor) -> dict[str, Tensor]:
    """A batch norm that adds a bias and changes nothing else."""
    ones = torch.ones(norm.num_features)
    return {
        f"{name}.weight": ones,
        f"{name}.bias": bias.float(),
        f"{name}.running_mean": torch.zeros(norm.num_features),
        f"{name}.running_var": ones - norm.eps,
    }


def _configuration(public: Bundle, authority: Bundle, preset: str | None) -> RunConfig:
    """The preset, with the bundle's own defaults of beta and gamma."""
    ours, theirs = public.manifest, authority.manifest
    if (ours.role, theirs.role) != ("public", "authority"):
        raise ExportError(f"expected a public and an authority bundle, found {ours.role} and {theirs.role}")
    if ours.training != theirs.training:
        raise ExportError("expected two bundles of one run, found two of different ones")
    if ours.precision not in WHOLE_WEIGHTS:
        raise ExportError(
            f"expected a bundle in {' or '.join(WHOLE_WEIGHTS)}, found {ours.precision}, which does not keep "
            "the trained weights under their names"
        )
    name = preset or ours.name
    if name not in PRESETS:
        raise ExportError(f"expected --preset to be one of {', '.join(PRESETS)}, found {name!r}")
    config = PRESETS[name]
    if (size := config.network.image_size) != ours.image_size:
        raise ExportError(f"expected faces of {size} px as in {name}, the bundle's have {ours.image_size}")
    settings = dataclasses.replace(config.attack_settings, strength=ours.strength, injection=ours.injection)
    return dataclasses.replace(config, attack_settings=settings)


if __name__ == "__main__":
    main()
