"""The whole chain from photo to saved photo: torch, ONNX Runtime and the command line's file agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from export.build import main as build_main
from export.wrappers import ProtectExport, RestoreExport
from runtime import geometry
from runtime.cli import main
from runtime.detection import FaceDetector
from runtime.manifest import open_bundle
from runtime.paste import make_patch, paste
from tests.tiny_run import NAMES, SIZE, save_run
from training.checkpoint import load_networks
from training.networks import Generator, Restorer

PORTRAIT = Path(__file__).parents[1] / "examples" / "portrait.jpg"

# Least share of uint8 values within one level: rounding on an edge tips over, and pasting may enlarge it.
WITHIN_ONE = 0.999

Pixels = NDArray[np.uint8]
Network = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Setting:
    """A photo without loss, bundles of random networks, and the same networks in PyTorch."""

    photo: Path
    bundle: Path
    key: Path
    generator: Generator
    restorer: Restorer


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("chain")
    run, bundle = save_run(folder / "run"), folder / "bundle"
    result = CliRunner().invoke(build_main, ["--run", str(run), "--out", str(bundle)])
    assert result.exit_code == 0, result.output
    photo = folder / "portrait.png"
    with Image.open(PORTRAIT) as image:
        Image.fromarray(np.asarray(image.convert("RGB"))).save(photo)
    _, generator, restorer, _, _ = load_networks(run)
    return Setting(photo, bundle, folder / "bundle.key", generator, restorer)


def on_the_command_line(*arguments: object) -> dict[str, Any]:
    """Runs ``erasablemask`` on one thread and gives its report."""
    result = CliRunner().invoke(main, [*map(str, arguments), "--threads", "1", "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def in_torch(photo: Pixels, bundle: Path, network: Network) -> tuple[Pixels, NDArray[np.bool_]]:
    """The photo as it should be saved, and where a face's mask lets it change."""
    with FaceDetector.from_bundle(open_bundle(bundle), threads=1) as detector:
        faces = detector.detect(photo)
    matrices = [geometry.crop_transform(face.landmarks, SIZE) for face in faces]
    crops = np.stack([geometry.warp(photo, matrix, (SIZE, SIZE)) for matrix in matrices])
    height, width = photo.shape[:2]
    inside = np.zeros((height, width), bool)
    patches = []
    for crop, output, matrix in zip(crops, network(crops), matrices, strict=True):
        patch = make_patch(crop, output, matrix, (height, width))
        assert patch is not None
        inside[patch.y0 : patch.y1, patch.x0 : patch.x1] |= patch.mask > 0
        patches.append(patch)
    return paste(photo, patches), inside


def check_file(found: Pixels, expected: Pixels, photo: Pixels, inside: NDArray[np.bool_]) -> None:
    """The file is what torch gives, inside the mask and as a whole, and outside it the photo itself."""
    assert found.shape == expected.shape
    close = np.abs(found.astype(int) - expected) <= 1
    assert close.mean() >= WITHIN_ONE
    assert close[inside].mean() >= WITHIN_ONE
    assert np.array_equal(found[~inside], photo[~inside])
    # Neither comparison may be empty: the random network changes nearly all inside, and much lies outside.
    assert (found != photo)[inside].mean() > 0.5
    assert 0.05 < inside.mean() < 0.95


def read(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image)


def test_protect_saves_what_the_generator_in_torch_gives(setting: Setting, tmp_path: Path) -> None:
    bundle, out = setting.bundle / "public", tmp_path / "out.png"
    report = on_the_command_line("protect", setting.photo, "-o", out, "--bundle", bundle)
    used = [[face["attributes"][name] for name in NAMES] for face in report["pictures"][0]["faces"]]

    def generator(crops: Pixels) -> Pixels:
        assert len(crops) == len(used)
        knobs = [torch.full((len(crops), 1), report[name]) for name in ("strength", "injection")]
        with torch.inference_mode():
            module = ProtectExport(setting.generator).eval()
            return module(torch.from_numpy(crops), torch.tensor(used).float(), *knobs).numpy()

    photo = read(setting.photo)
    expected, inside = in_torch(photo, bundle, generator)
    check_file(read(out), expected, photo, inside)


def test_erase_saves_what_the_restorer_in_torch_gives(setting: Setting, tmp_path: Path) -> None:
    """On the unprotected portrait: a random generator may leave no face to be found."""
    bundle, out = setting.bundle / "authority", tmp_path / "out.png"
    secret = ("--key-file", setting.key)
    report = on_the_command_line("erase", setting.photo, "-o", out, "--bundle", bundle, *secret)
    assert len(report["pictures"][0]["faces"]) > 0

    def restorer(crops: Pixels) -> Pixels:
        with torch.inference_mode():
            return RestoreExport(setting.restorer).eval()(torch.from_numpy(crops)).numpy()

    photo = read(setting.photo)
    expected, inside = in_torch(photo, bundle, restorer)
    check_file(read(out), expected, photo, inside)
