"""Results of every kind, made by hand: small, and as the schema wants them."""

from __future__ import annotations

from typing import Any

ROLES = {"white": "white-box", "black": "black-box"}


def estimate(value: float, count: int = 40) -> dict[str, Any]:
    return {"value": value, "low": max(0.0, value - 0.0625), "high": min(1.0, value + 0.0625), "count": count}


def spread(middle: float) -> dict[str, Any]:
    return {
        "median": middle,
        "quartiles": [0.9 * middle, 1.1 * middle],
        "p95": 1.3 * middle,
        "p99": 1.5 * middle,
        "calls": 7,
    }


def head(kind: str) -> dict[str, Any]:
    versions = {"numpy": "2.0", "openvino": None}
    about = {"commit": "ab" * 20, "processor": "a processor", "cores": 2, "python": "3.11.0"}
    return {"benchmark": kind, "environment": {**about, "versions": versions}}


BUNDLE = {"name": "compact", "precision": "fp16", "sha256": {"protect": "c" * 64, "restore": "d" * 64}}


def on_files(kind: str) -> dict[str, Any]:
    return {
        **head(kind),
        "bundle": BUNDLE,
        "target": "t.jpg",
        "jpeg_quality": 95,
        "calibration": {"pictures": 21, "pairs": 210, "seed": 0},
        "data": "faces",
        "no_face_found": 0,
        "plausibility": {},
        "suspicions": [],
    }


def attack_rows(asr: float = 0.875, esr: float = 0.75) -> dict[str, Any]:
    return {
        name: {
            "role": role,
            "threshold": {"0.01": 0.25, "0.1": 0.125},
            "cosine_to_target": {v: estimate(0.5) for v in ("clean", "protected", "restored")},
            "cosine_to_owner": {v: estimate(0.375) for v in ("protected", "restored")},
            "asr_clean": estimate(0.025),
            "esr_clean": estimate(0.9),
            "asr": estimate(asr),
            "esr": estimate(esr),
            "dodging": estimate(0.325),
            "owner_accepted_restored": estimate(0.975),
        }
        for name, role in ROLES.items()
    }


def found(rank_1: float) -> dict[str, Any]:
    return {"rank_1": estimate(rank_1), "verified_0.01": estimate(0.55), "verified_0.001": estimate(0.35)}


def quality() -> dict[str, Any]:
    measures = {"l1": estimate(0.0213), "ssim": estimate(0.923), "lpips_alex": estimate(0.0671)}
    return dict.fromkeys(("protected against clean", "restored against clean"), measures)


def program(name: str, batch: int, ms: float) -> dict[str, Any]:
    return {
        "program": name,
        "batch": batch,
        "ms_per_face": ms,
        "quartiles_ms": [0.9 * ms, 1.1 * ms],
        "p95_ms": 1.2 * ms,
        "p99_ms": 1.4 * ms,
        "least_ms": 0.8 * ms,
        "calls": 15,
        "max_levels": 3.0,
        "mean_levels": 0.01,
        "speedup": 1.75,
        "times_floor": 2.25,
    }


def efficacy() -> dict[str, Any]:
    lost = {"clean": 0, "protected": 1, "restored": 2}
    counted = {"seed": 0, "pictures": 40, "not_erased": 1, "lost": lost}
    measured = {"quality": quality(), "fid": "not measured: no weights", "recognizers": attack_rows()}
    return on_files("efficacy") | counted | measured


def owners() -> dict[str, Any]:
    rows = {
        name: {"role": role, "clean": found(0.925), "protected": found(0.075), "restored": found(0.8)}
        for name, role in ROLES.items()
    }
    lost = {"clean": 0, "protected": 0, "restored": 0}
    return on_files("owners") | {"people": 40, "other_photos": 4, "lost": lost, "recognizers": rows}


def robustness() -> dict[str, Any]:
    lost = {"clean": 0, "protected": 3, "restored": 4}
    operations = {
        name: {"lost": lost, "recognizers": attack_rows(asr)}
        for name, asr in {"none": 0.9, "JPEG": 0.6}.items()
    }
    return on_files("robustness") | {"seed": 0, "pictures": 40, "operations": operations}


def peers() -> dict[str, Any]:
    def row(asr: float, ours: bool) -> dict[str, Any]:
        rows = attack_rows(asr)
        if not ours:
            rows = {name: {**r, "esr": None, "owner_accepted_restored": None} for name, r in rows.items()}
        return {
            "paper": "Somebody, 2020",
            "differs": "In nothing.",
            "no_face_found": 0,
            "lost": 5,
            "recognizers": rows,
            "quality": {"ssim": estimate(0.887), "lpips_alex": estimate(0.0731)},
            "network": {"seconds_a_face": 1.75, "mean_change_levels": 3.5, "max_change_levels": 8},
            "plausibility": {},
            "suspicions": [],
        }

    named = {"clean": row(0.02, False), "PGD 4/255": row(0.7, False), "MI-FGSM 8/255": row(0.99, False)}
    named["Unbuilt"] = {"paper": "Nobody, 2021", "differs": "-", "reason": "its data are not to be had"}
    named["ErasableMask"] = row(0.85, True)
    return on_files("peers") | {"seed": 0, "pictures": 40, "peers": named}


def hardened() -> dict[str, Any]:
    rows = {"black": attack_rows()["black"], "black_hardened": attack_rows(0.15)["black"]}
    return efficacy() | {"benchmark": "hardened", "recognizers": rows, "hardening": {"black_hardened": {}}}


def eraser() -> dict[str, Any]:
    def row(rank_1: float) -> dict[str, Any]:
        rates = {"esr": estimate(0.7), "owner_accepted": estimate(0.6)}
        others = {"clean": found(0.925), "erased": found(rank_1)}
        rows = {name: {"role": r, **rates, "by_other_photos": others} for name, r in ROLES.items()}
        return {"lost": 0, "quality": {"ssim": estimate(0.8)}, "recognizers": rows}

    named = {"authority": row(0.8), "not erased": row(0.1), "purifier, 500 pairs": row(0.45)}
    counted = {"people": 40, "other_photos": 4, "faces": "pack", "training": {}}
    return on_files("eraser") | counted | {"erasers": named}


def on_lfw(kind: str) -> dict[str, Any]:
    bundle = {"name": "other", "precision": "fp16", "sha256": {"anonymise": "f" * 64}}
    counted = {"seed": 0, "pairs": 40, "pictures": 70, "no_face_found": 1}
    about = {"bundle": bundle, "stochastic": True, "jpeg_quality": 95, "data": "lfw"}
    return head(kind) | about | counted | {"plausibility": {}, "suspicions": []}


def alike(ssim: float) -> dict[str, Any]:
    measures = {"psnr": {"value": 12.5, "low": 12.25, "high": 12.75, "count": 70}, "ssim": estimate(ssim)}
    return {"crop": measures, "core": measures}


def anonymiser() -> dict[str, Any]:
    def row(strength: float, told: float, ssim: float) -> dict[str, Any]:
        accuracy = {
            "clean-clean": estimate(0.9375),
            "anonymised-anonymised": estimate(told),
            "anonymised-clean": estimate(told),
        }
        rates = {"linked": estimate(0.825), "cosine_to_source": estimate(0.55)}
        rows = {name: {"role": role, "accuracy": accuracy, **rates} for name, role in ROLES.items()}
        return {"strength": strength, "lost": 2, "recognizers": rows, "privacy": alike(ssim)}

    return on_lfw("anonymiser") | {"strengths": [row(0.25, 0.9, 0.45), row(0.75, 0.875, 0.3125)]}


def reconstruction() -> dict[str, Any]:
    attackers = {
        "mean face": {"releases": 1, "training": {}, "privacy": alike(0.375)},
        "8 releases": {"releases": 8, "training": {"steps": 5}, "privacy": alike(0.4375)},
    }
    measured = {"strength": 0.75, "published": alike(0.3125), "reconstructions": attackers}
    return on_lfw("reconstruction") | {"faces": "pack", "strengths": [measured]}


def ablations() -> dict[str, Any]:
    def variant(asr: float, settings: dict[str, str]) -> dict[str, Any]:
        pairs = {"ssim": estimate(0.81), "lpips": estimate(0.0815)}
        return {
            "asked": {"settings": settings},
            "evaluation": {
                "recognizers": attack_rows(asr),
                "quality": {"protected against edited": pairs, "restored against clean": pairs},
            },
        }

    gamma, beta = "attack_settings.injection", "attack_settings.strength"
    return head("ablations") | {
        "base": "run",
        "preset": "compact",
        "training_faces": 6000,
        "test_people": 150,
        "reference": {gamma: "0.05"},
        "variants": {
            "reference": variant(0.8, {}),
            "gamma 0.1": variant(0.7, {gamma: "0.1"}),
            "beta 0.7": variant(0.6, {beta: "0.3"}),
        },
    }


def latency() -> dict[str, Any]:
    rows = [program(n, b, 8.0 / b) for b in (1, 8) for n in ("ONNX Runtime fp32", "OpenVINO bf16, 2x2")]
    return head("latency") | {
        "run": {"name": "compact", "steps": 12},
        "settings": {"rounds": 3, "calls": 5, "threads": 2, "device": "cpu"},
        "matrix_rate_flops": {"fp32": 2.0e11, "bf16": 8.0e11},
        "networks": {
            "protect": {
                "flops_per_face": 2_000_000_000,
                "floor_ms": 2.5,
                "missing": {"ONNX Runtime CUDA fp32": "no GPU"},
                "programs": rows,
            }
        },
    }


def photo() -> dict[str, Any]:
    stages = ("decode", "detect", "align", "network", "paste", "encode", "rest")
    rows = [
        {
            "backend": backend,
            "verb": verb,
            "picture": "portrait",
            "total_ms": spread(ms),
            "stages_ms": {stage: spread(ms / 8) for stage in stages},
        }
        for backend, ms in {"ort-cpu": 96.0, "openvino-bf16": 80.0}.items()
        for verb in ("protect", "erase")
    ]
    cold = [
        {
            "backend": "ort-cpu",
            "verb": "protect",
            "picture": "portrait",
            "first_photo_ms": spread(900.0),
            "peak_mib": 210.5,
        }
    ]
    sweep = [program(backend, batch, 9.5) for backend in ("ort-cpu", "openvino-bf16") for batch in (1, 64)]
    network = {"flops_per_face": 2_000_000_000, "floor_ms": 2.5, "programs": sweep}
    return head("photo") | {
        "bundle": BUNDLE,
        "settings": {"threads": 2, "rounds": 7},
        "missing": {"openvino-fp32": "it is not installed"},
        "pictures": {"portrait": {"width_px": 512, "height_px": 480, "faces": 1}},
        "photos": rows,
        "cold": cold,
        "matrix_rate_flops": {"fp32": 2.0e11, "bf16": 8.0e11},
        "networks": {"protect": network, "erase": network},
    }


def serving() -> dict[str, Any]:
    rows = [
        {
            "server": server,
            "backend": "ort-cpu",
            "concurrency": concurrency,
            "faces_per_s": rate,
            "faces_per_s_range": [0.95 * rate, 1.05 * rate],
            "client_ms": {"p50": 16.25, "p90": 18.5, "p95": 20.75, "p99": 25.5},
            "server_ms": {"queue": 0.1},
            "mean_batch": 1.5,
            "rounds": 3,
        }
        for server, rate in {"fused batches": 80.0, "batching off": 60.0, "FastAPI": 95.0}.items()
        for concurrency in (1, 8)
    ]
    return head("serving") | {
        "bundle": BUNDLE,
        "settings": {"threads": 2, "rounds": 3, "faces_per_request": 1, "compare": "peers"},
        "rows": rows,
        "network_ms_per_face": {"ort-cpu": {"together": {"1": 11.5, "8": 9.0}, "lanes": {"1": 12.0}}},
    }


def overhead() -> dict[str, Any]:
    row = {"backend": "ort-cpu", "requests": 500, "p50_ms": 13.25, "p95_ms": 15.5}
    rows = [
        row | {"path": "network alone"},
        row | {"path": "door", "phases_ms": {"queue": 0.25}, "overhead_ms": 2.5},
    ]
    settings = {"threads": 2, "requests": 100, "rounds": 5}
    return head("serving overhead") | {"bundle": BUNDLE, "settings": settings, "rows": rows}


def soak() -> dict[str, Any]:
    return head("soak") | {
        "bundle": BUNDLE,
        "settings": {
            "backend": "ort-cpu",
            "minutes": 2.0,
            "concurrency": 8,
            "growth_limit_mib": 1.0,
        },
        "requests": 1234,
        "errors": [],
        "latency_ms": [{"minute": m, "requests": 617, "p50": 300.5, "p99": 440.5} for m in (0, 1)],
        "memory_mib": [{"s": s, "supervisor": 50.0 + s} for s in (0.0, 60.0, 120.0)],
        "growth_mib": {"supervisor": 60.0},
        "growth_mib_per_hour": {"supervisor": 3600.0},
    }


def layers() -> dict[str, Any]:
    program = {"ms_per_face": {"convolutions": 2.25, "moves": 0.75}, "convolution_flops": 1.5e12}
    return head("latency layers") | {
        "run": {"name": "compact", "steps": 10},
        "settings": {"batch": 8, "calls": 50, "threads": 2},
        "matrix_rate_flops": {"bf16": 1.25e12},
        "networks": {"protect": {"flops_per_face": 2662334464, "programs": {"twin": program}}},
    }


def target_choice() -> dict[str, Any]:
    return head("target_choice") | {
        "calibration": {"pictures": 21, "pairs": 210, "seed": 0},
        "data": "faces",
        "seed": 0,
        "strangers": 40,
        "no_face_found": 0,
        "targets": {"a.jpg": {"white": estimate(0.925), "mean": 0.925}},
    }


def calibrate() -> dict[str, Any]:
    thresholds = {"0.1": 0.125, "0.01": 0.25}
    recognizers = {name: {"sha256": "e" * 64, "threshold": thresholds} for name in ROLES}
    counted = {"data": "lfw", "pictures": 2100, "pairs": 2203950, "seed": 0}
    return head("calibrate") | counted | {"recognizers": recognizers}


MAKERS = {
    "efficacy": efficacy,
    "owners": owners,
    "robustness": robustness,
    "peers": peers,
    "hardened": hardened,
    "eraser": eraser,
    "anonymiser": anonymiser,
    "reconstruction": reconstruction,
    "ablations": ablations,
    "latency": latency,
    "latency layers": layers,
    "photo": photo,
    "serving": serving,
    "serving overhead": overhead,
    "soak": soak,
    "target_choice": target_choice,
    "calibrate": calibrate,
}
