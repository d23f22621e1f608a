"""``python -m training.evaluation``: a run's checkpoint on aligned test faces, as JSON and Markdown."""

from __future__ import annotations

from pathlib import Path

import click

EXAMPLE = """\b
Example:
  python -m training.evaluation --run runs/compact --data celeba --recognizers fr/cards.json \\
      --target target.jpg --thresholds benchmarks/results/thresholds.json --out runs/compact/evaluation
"""


@click.command(epilog=EXAMPLE)
@click.option("--run", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True), help="CelebA's folder.")
@click.option(
    "--split",
    type=click.Choice(["validation", "test"]),
    default="test",
    show_default=True,
    help="Choose between runs on validation.",
)
@click.option("--recognizers", "cards", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--white-box-only", is_flag=True, help="Leave the held-out ones out, as a choice must.")
@click.option("--target", required=True, type=click.Path(path_type=Path, exists=True), help="Its picture(s).")
@click.option("--thresholds", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--lpips-trunk", type=click.Path(path_type=Path, exists=True), help="AlexNet's; for LPIPS.")
@click.option("--inception", type=click.Path(path_type=Path, exists=True), help="Its weights; for FID.")
@click.option("--count", type=click.IntRange(min=1), help="Only the first so many people.")
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=95,
    show_default=True,
    help="JPEG quality of the saved crops.",
)
@click.option("--strength", type=click.FloatRange(0, 1), help="1 - beta of Eq. 6; default: the run's.")
@click.option("--cache", type=click.Path(path_type=Path), help="Prepared faces; default: beside the run.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="OUT.json and OUT.md.")
def main(
    run: Path,
    data: Path,
    split: str,
    cards: Path,
    white_box_only: bool,
    target: Path,
    thresholds: Path,
    lpips_trunk: Path | None,
    inception: Path | None,
    count: int | None,
    quality: int,
    strength: float | None,
    cache: Path | None,
    threads: int | None,
    out: Path,
) -> None:
    """Attack, erasure and owner-found rates of a run on crops saved as JPEG."""
    from rich.progress import track

    from ..checkpoint import CheckpointError, load_networks
    from ..data import DataError, Split, pack_faces, read_celeba
    from ..monitor import fixed_threads
    from ..perceptual import Lpips
    from ..surrogates.card import SurrogateError
    from ..target import target_crops, target_pictures, unseen_pictures
    from .crops import evaluate, mean_embedding
    from .frechet import Inception
    from .recognition import load_recognizers, read_thresholds
    from .statistics import write_json
    from .table import markdown

    fixed_threads(threads)
    try:
        config, _, _, _, about = load_networks(run)
        records = read_celeba(data, Split[split.upper()])
        size_px = config.network.image_size
        pack = pack_faces(
            records,
            (cache or run.parent / "cache") / f"{data.name}-{split}-{size_px}",
            size_px,
            progress=lambda batches: track(batches, "landmarks"),
        )
        recognizers = [
            recognizer
            for recognizer in load_recognizers(cards, threads=threads)
            if not white_box_only or recognizer.card.role == "white-box"
        ]
        pictures = unseen_pictures(target_pictures(target), about.get("target_sha256", ()))
        crops, landmarks = target_crops(pictures)
        result = evaluate(
            run,
            pack,
            recognizers,
            {r.name: r.card.role for r in recognizers},
            read_thresholds(thresholds),
            {r.name: mean_embedding(r, crops, landmarks) for r in recognizers},
            quality=quality,
            strength=strength,
            count=count,
            perceptual=Lpips("alex", lpips_trunk) if lpips_trunk else None,
            inception=Inception(inception) if inception else None,
            progress=lambda items: track(items, "recognisers"),
        )
    except (CheckpointError, DataError, SurrogateError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    told = {"run": run.name, "about": about, "data": f"{data.name}, {split}"}
    result = {**told, "target": [picture.name for picture in pictures], **result}
    write_json(result, out.with_name(f"{out.name}.json"))
    text = markdown(result)
    out.with_name(f"{out.name}.md").write_text(text, encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
