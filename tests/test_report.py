"""The report: every number in its tables stands in a result, nothing comes from elsewhere, gaps are named."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.bundles import Bundles
from benchmarks.efficacy.ablations import REFERENCE, VARIANTS
from benchmarks.report import __main__ as report
from benchmarks.report import gallery
from benchmarks.report.claims import GAINS, LOSSES, OPENING
from benchmarks.report.groundwork import differences
from benchmarks.report.page import SECTIONS, context_of, read_results, write_report
from benchmarks.report.parts import Measured
from benchmarks.report.service import alone_ms, serving
from benchmarks.report.summary import summarise
from benchmarks.schema import KINDS, check, write_result

from .made_results import MAKERS, alike, peers

VOID = {"meta", "img", "br", "link", "path", "use", "rect", "circle", "line", "polygon"}


class Page(HTMLParser):
    """Cells of tables, addresses, ids, and whether every element is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attributes)
        self.addresses += [known[a] or "" for a in ("src", "href", "xlink:href", "srcset") if a in known]
        self.ids += [known["id"] or ""] if "id" in known else []
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self._open:
            self.cells[-1] += data


def numbers_in(text: str) -> set[str]:
    return set(re.findall(r"\d[\d,]*(?:\.\d+)?", text))


def written(value: Any) -> set[str]:
    """Every way in which a report may write what stands in a result: rounded, or as a percentage."""
    if isinstance(value, dict):
        return set().union(*(numbers_in(str(key)) | written(child) for key, child in value.items()))
    if isinstance(value, list):
        return set().union(*map(written, value))
    if isinstance(value, str):
        return numbers_in(value)
    if isinstance(value, bool) or value is None:
        return set()
    size = abs(value)
    return {f"{size:,}"} | {f"{scale * size:.{digits}f}" for scale in (1, 100) for digits in range(5)}


def made(folder: Path, kinds: list[str]) -> Path:
    for kind in kinds:
        write_result(MAKERS[kind](), folder / f"{kind}.json")
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path]:
    """HTML and Markdown of all kinds, and the folder."""
    folder = tmp_path_factory.mktemp("full")
    html, markdown = write_report(
        context_of(read_results(made(folder / "results", list(MAKERS))), None), folder / "report"
    )
    return html.read_text(), markdown.read_text(), folder / "report"


def test_there_is_a_section_and_a_made_result_of_every_kind() -> None:
    assert set(SECTIONS) == set(KINDS) == set(MAKERS)


def test_every_number_in_the_tables_stands_in_a_result(full: tuple[str, str, Path]) -> None:
    allowed = set().union(*(written(maker()) for maker in MAKERS.values()))
    cells = Page(full[0]).cells
    found = set().union(*map(numbers_in, cells))
    assert len(found) > 60
    assert found <= allowed
    lines = [line for line in full[1].splitlines() if line.startswith("|")]
    # The first cell of a row, and of a head, is a name.
    assert set().union(*(numbers_in(line.split("|", 2)[2]) for line in lines)) >= found


def test_the_page_needs_no_other_file(full: tuple[str, str, Path]) -> None:
    page = Page(full[0])
    assert page.addresses
    assert all(address.startswith(("#", "data:image/")) for address in page.addresses)
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.tags
    assert "url(http" not in full[0]
    assert "@import" not in full[0]


def test_plots_take_the_colours_of_the_page_and_lie_beside_the_markdown(full: tuple[str, str, Path]) -> None:
    html, markdown, folder = full
    assert Page(html).tags.count("svg") == len(list(folder.glob("figures/*.svg"))) >= 12
    assert "var(--ink" in html
    assert "#010203" not in html
    for name in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (folder / name).exists()


def test_nothing_is_missing_where_everything_is_there(full: tuple[str, str, Path]) -> None:
    assert "Not measured here" not in full[0]
    assert "Not measured here" not in full[1]


def test_what_is_not_there_is_named_and_not_invented(tmp_path: Path) -> None:
    results = made(tmp_path / "results", ["soak"])
    run = CliRunner().invoke(
        report.main, ["--results", str(results), "--out", str(tmp_path / "out"), "--no-pictures"]
    )
    assert run.exit_code == 0, run.output
    html = (tmp_path / "out" / "index.html").read_text()
    page = Page(html)
    assert {"soak", "provenance"} <= set(page.ids)
    assert not {"efficacy", "owners", "photo", "balance", "pictures"} & set(page.ids)
    for kind, (_, command) in SECTIONS.items():
        assert (f"{kind}: <code>{command}</code>" in html) == (kind != "soak")


def test_a_suspicious_result_is_in_the_report_and_then_the_command_fails(tmp_path: Path) -> None:
    doubt = {"what": "protected_ssim", "found": "mean SSIM: expected at least 0.7, found 0.2"}
    results = tmp_path / "results"
    write_result(MAKERS["owners"]() | {"suspicions": [doubt]}, results / "owners.json")
    run = CliRunner().invoke(
        report.main, ["--results", str(results), "--out", str(tmp_path / "out"), "--no-pictures"]
    )
    assert run.exit_code == 1
    assert "SUSPICIOUS protected_ssim: mean SSIM" in run.stderr
    assert "suspicion of a cheat: mean SSIM" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize(
    ("growth", "told"),
    [
        (60.0, "allowed grew: supervisor; so the check failed"),
        (-0.01, "No process grew by more than the 1 MiB"),
    ],
)
def test_a_soak_says_whether_memory_grew(growth: float, told: str) -> None:
    document = MAKERS["soak"]() | {"growth_mib": {"supervisor": growth}}
    section = SECTIONS["soak"][0](Measured(name="soak.json", document=document))
    assert told in section.text[0]
    (table,) = section.tables
    assert table.rows == [["supervisor", "+60.0" if growth > 0 else "+0.0", "+3600.0", "170"]]


def test_results_that_do_not_conform_and_empty_folders_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = ["--out", str(tmp_path / "out"), "--no-pictures"]
    run = CliRunner().invoke(report.main, ["--results", str(empty), *arguments])
    assert run.exit_code == 1
    assert f"no results in {empty}; measure some first" in run.output
    bare = MAKERS["soak"]()
    del bare["environment"]["commit"]
    (empty / "soak.json").write_text(json.dumps(bare))
    run = CliRunner().invoke(report.main, ["--results", str(empty), *arguments])
    assert run.exit_code == 1
    assert "soak.json: at environment: 'commit' is a required property" in run.output
    assert not (tmp_path / "out").exists()


def test_the_opening_is_computed() -> None:
    """Black-box ASR 0.875 of 40 pictures, rank 1 from 0.925 to 0.075; 80 ms is the faster backend's."""
    summary = summarise([Measured(name=f"{k}.json", document=m()) for k, m in MAKERS.items()])
    opening = " ".join(summary.opening)
    assert "On 40 pictures, 88 % of the protected faces pass for the target" in opening
    assert "find 8 % of them on the protected picture, 92 % on the clean one and 80 % on" in opening
    assert "512 x 480 pixels with 1 face takes 80 ms from file to file with openvino-bf16, 10 ms" in opening
    assert "up to 95 faces a second (FastAPI" not in opening
    assert "up to 80 faces a second (fused batches" in opening


def test_the_anonymisers_headline_is_of_its_strongest_noise_and_of_the_black_boxes() -> None:
    """Two strengths: 0.875 at 0.75. Of the attackers the averaging one is best, with 0.4375."""
    documents = {"a.json": MAKERS["anonymiser"](), "r.json": MAKERS["reconstruction"]()}
    summary = summarise([Measured(name=name, document=made) for name, made in documents.items()])
    (opening,) = summary.opening
    assert "the black-box recognisers tell 87.5 % right, beside a clean picture 87.5 % (clean" in opening
    assert "at strength 0.75 and an SSIM of 0.31 to the clean face" in opening
    cost, reconstructed = summary.losses
    assert cost.startswith("black tells 87.5 (81.2-93.8) % of the anonymised pairs right")
    assert "(8 releases, strength 0.75) has an SSIM of 0.44" in reconstructed
    assert reconstructed.endswith("; the mean face of others has 0.38.")


def test_the_best_attacker_is_one_that_looks_at_the_picture() -> None:
    """The mean face of others may be more alike than what any attacker makes."""
    document = MAKERS["reconstruction"]()
    attackers = document["strengths"][0]["reconstructions"]
    attackers["mean face"]["privacy"] = alike(0.5)
    (told,) = summarise([Measured(name="r.json", document=document)]).losses
    assert "(8 releases, strength 0.75) has an SSIM of 0.44" in told
    assert told.endswith("; the mean face of others has 0.50.")


def test_photos_and_servers_of_an_anonymiser_are_told_as_such() -> None:
    photo, serving = MAKERS["photo"](), MAKERS["serving"]()
    photo["photos"] = [row | {"verb": "anonymise"} for row in photo["photos"] if row["verb"] == "protect"]
    serving["bundle"] = {"name": "other", "precision": "fp16", "sha256": {"anonymise": "f" * 64}}
    measured = [Measured(name=f"{d['benchmark']}.json", document=d) for d in (photo, serving)]
    opening = "\n".join(summarise(measured).opening)
    assert "Anonymising a photo of 512 x 480 pixels with 1 face takes" in opening
    assert "Our server anonymises up to" in opening


def test_a_curve_is_drawn_of_several_strengths_and_the_ablation_says_what_it_is() -> None:
    several = MAKERS["anonymiser"]()
    one = several | {"strengths": several["strengths"][:1], "stochastic": False}
    names = []
    for name, document in (("several", several), ("one", one)):
        section = SECTIONS["anonymiser"][0](Measured(name=f"{name}.json", document=document))
        names.append([figure.name for figure in section.figures])
        assert ("other, without noise: the ablation" in section.title) is (name == "one")
    assert names == [["anonymiser-several", "anonymiser-trade-off-several"], ["anonymiser-one"]]


def test_losses_are_told_beside_gains() -> None:
    summary = summarise([Measured(name=f"{k}.json", document=m()) for k, m in MAKERS.items()])
    gains, losses = "\n".join(summary.gains), "\n".join(summary.losses)
    changed = "it changes the face by 3.5 of 255 levels on average, ours by 3.5."
    assert f"Our ASR is above that of PGD 4/255, beyond the intervals, with black; {changed}" in gains
    assert f"Our ASR is below that of MI-FGSM 8/255, beyond the intervals, with black; {changed}" in losses
    assert "Our server protects more faces a second than batching off on ort-cpu with 1 and 8" in gains
    assert "Our server protects fewer faces a second than FastAPI on ort-cpu with 1 and 8" in losses
    assert "a hacker's eraser (purifier, 500 pairs) brings 45 % of the owners back" in losses
    assert "The hardened black_hardened takes 15 (9-21) % of the protected faces" in losses
    assert summary.warnings == []


def test_a_reader_is_warned_of_mixed_bundles_uncommitted_code_and_suspicions() -> None:
    first, second, third = (MAKERS[kind]() for kind in ("efficacy", "owners", "soak"))
    second["bundle"] = {**second["bundle"], "sha256": {"protect": "f" * 64}}
    third["environment"]["commit"] += "-dirty"
    first["suspicions"] = [{"what": "protected_ssim", "found": "mean SSIM: expected at least 0.7, found 0.2"}]
    documents = {"efficacy.json": first, "owners.json": second, "soak.json": third}
    warnings = summarise([Measured(name=n, document=d) for n, d in documents.items()]).warnings
    assert len(warnings) == 3
    assert "not all of the same network" in warnings[0]
    assert "efficacy.json and soak.json: cccccccccccc; owners.json: ffffffffffff" in warnings[0]
    assert "efficacy.json: suspicion of a cheat: mean SSIM" in warnings[1]
    assert warnings[2] == "Measured with changes that no commit holds: soak.json."


def test_our_own_settings_beside_one_another_are_no_rivals() -> None:
    result = MAKERS["serving"]()
    assert alone_ms(result) == {"ort-cpu": 11.5}
    assert any("Our server protects fewer faces" in line for line in LOSSES["serving"](result))
    result["settings"]["compare"] = "knobs"
    check(result, "knobs")
    assert serving(Measured(name="serving.json", document=result)).title.endswith("knobs of fused batching")
    assert [say["serving"](result) for say in (OPENING, GAINS, LOSSES)] == [[], [], []]


def test_the_report_says_what_the_ablations_lack() -> None:
    result = MAKERS["ablations"]()
    told = differences(result)
    assert "Not trained: " in told[0]
    assert "owner term" in told[0]
    result["variants"] = dict.fromkeys(VARIANTS, result["variants"]["reference"])
    assert differences(result | {"reference": REFERENCE}) == []
    (older,) = differences(result | {"reference": {**REFERENCE, "attack_settings.chroma_weight": "1"}})
    assert older == "The reference is not today's, which differs in attack_settings.chroma_weight."


def test_few_pictures_prove_nothing_and_a_reader_is_told() -> None:
    few = MAKERS["efficacy"]() | {"pictures": 3}
    summary = summarise([Measured(name="efficacy.json", document=few)])
    assert summary.warnings[0].startswith("Fewer than 30 samples in efficacy.json: ")
    assert not any("no more often than untouched" in line for line in summary.gains)


def test_what_costs_most_is_told_beside_what_was_before() -> None:
    losses = summarise([Measured(name="r.json", document=MAKERS["robustness"]())]).losses
    (line,) = losses
    assert line.startswith("JPEG costs most: with ")
    assert line.endswith("the attack succeeds in 60 (54-66) % after it and in 90 (84-96) % without.")


def test_a_peer_that_was_not_built_keeps_its_row_and_reason() -> None:
    section = SECTIONS["peers"][0](Measured(name="peers.json", document=peers()))
    assert "Not built: Unbuilt: its data are not to be had" in section.text
    (row,) = (row for row in section.tables[0].rows if row[0] == "Unbuilt")
    assert set(row[1:]) == {"-"}


def test_the_gallery_shows_packaged_faces_changed_by_the_bundle() -> None:
    section = gallery.gallery(Bundles.open(None, None))
    assert len(section.gallery) == len(gallery.ROWS) + 1
    for row in section.gallery:
        source, edited, protected, difference, restored = (
            Image.open(io.BytesIO(picture.jpeg)).convert("RGB") for picture in row
        )
        assert source.size == edited.size == protected.size == difference.size == restored.size
        assert protected.tobytes() != source.tobytes()
        assert len({picture.label for picture in row}) == 5
    assert all("shared" not in str(path) for path, _ in gallery.ROWS)
