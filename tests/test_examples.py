"""The example photos, and the demo that ``make demo`` runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from runtime.errors import BundleError
from runtime.results import Face
from tests.manifests import manifest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_photo_is_attributed() -> None:
    text = (EXAMPLES / "ATTRIBUTION.md").read_text()
    photos = sorted(EXAMPLES.glob("*.jpg"))
    assert [photo.name for photo in photos] == ["group.jpg", "portrait.jpg"]
    for photo in photos:
        assert f"`{photo.name}`" in text
        with Image.open(photo) as image:
            assert image.mode == "RGB"
            assert min(image.size) >= 512


def test_target_embedding_is_read_and_normalised_or_missed_by_name(demo: ModuleType) -> None:
    carried = manifest(training={"target_embeddings": {"sface": [2.0] + [0.0] * 127}})
    assert np.array_equal(demo.target_embedding(carried), np.eye(1, 128, dtype=np.float32)[0])
    with pytest.raises(BundleError, match=r"training\.target_embeddings\.sface"):
        demo.target_embedding(manifest())


def test_sheet_is_a_grid_of_four_columns(demo: ModuleType) -> None:
    grey = np.full((30, 40, 3), 100, np.uint8)
    versions = {"original": grey, "protected": grey + 2, "restored": grey}
    sheet = demo.draw_sheet([("one", versions), ("two", versions)])
    width, height = demo.CELL_SIZE
    assert sheet.size == (8 + 4 * (width + 8), 8 + 2 * (height + 28))
    centre_of_change = (8 + 3 * (width + 8) + width // 2, 28 + height // 2)
    assert sheet.getpixel(centre_of_change) == (128 + 2 * demo.DIFFERENCE_GAIN,) * 3


def test_close_up_stays_inside_the_photo(demo: ModuleType) -> None:
    pixels = np.zeros((100, 120, 3), np.uint8)
    face = Face((-5.0, -5.0, 35.0, 35.0), np.zeros((5, 2)), 0.9)
    assert demo.around(pixels, face).shape == (64, 85, 3)


def test_demo_runs_with_the_shipped_bundle(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    demo.main(tmp_path)
    names = {f"{version}_{photo}.jpg" for version in demo.VERSIONS for photo in demo.PHOTOS}
    assert {path.name for path in tmp_path.iterdir()} == names | {"sheet.png", "report.json"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert [len(faces) for faces in report["photos"].values()] == [1, 5]
    printed = capsys.readouterr().out
    assert "portrait, 1" in printed
    assert f"{report['threshold']:.3f}" in printed
