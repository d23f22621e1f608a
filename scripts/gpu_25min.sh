#!/usr/bin/env bash
# Trains the preset gpu-25min on a machine without a network, from what was carried there.
#
#   scripts/gpu_25min.sh CARRY WORK OUT [OPTION OF python -m training ...]
#
# CARRY holds train/ and validation/ (portable packs), fr/cards.json with its networks, target.jpg,
# alexnet.pth (LPIPS's trunk) and, for packages that are missing there, wheels/; docs/training.md says how to
# make them. WORK keeps everything between calls: the same command goes on where the last one stopped. OUT
# gets, also when training is interrupted, the averaged networks, logs and pictures in files of at most 15 MiB.
set -euo pipefail
carry=$(realpath "$1") work=$(realpath -m "$2") out=$(realpath -m "$3")
shift 3
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
mkdir -p "$work" "$out"

collect() {
  [ -f "$work/run/checkpoint.pt" ] || return 0
  rm -rf "$work/slim" "$out"/checkpoint.pt.*
  "$python" -m training.slim "$work/run" "$work/slim"
  split --bytes=15M --numeric-suffixes "$work/slim/checkpoint.pt" "$out/checkpoint.pt."
  cp "$work/run/config.json" "$out/"
  [ ! -f "$work/run/log.jsonl" ] || cp "$work/run/log.jsonl" "$out/"
  tar -C "$work/run" -cf "$out/samples.tar" samples
  (cd "$out" && sha256sum -- *.* >"$work/SHA256SUMS" && cp "$work/SHA256SUMS" .)
}

if compgen -G "$carry/wheels/*.whl" >/dev/null; then
  [ -d "$work/site" ] ||
    "$python" -m pip install --quiet --no-index --no-deps --target "$work/site" "$carry"/wheels/*.whl
  export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
fi
for part in train validation; do
  [ -d "$work/faces/$part" ] ||
    "$python" -m training.data.portable unpack "$carry/$part" "$work/faces/$part"
done
given=(--preset gpu-25min --data "$work/faces" --surrogates "$carry/fr/cards.json")
[ -s "$out/plan.txt" ] || "$python" -m training "${given[@]}" --dry-run "$@" | tee "$out/plan.txt"

trap collect EXIT
"$python" -m training "${given[@]}" --target "$carry/target.jpg" --lpips-trunk "$carry/alexnet.pth" \
  --out "$work/run" "$@" 2>&1 | tee -a "$out/train.log"
