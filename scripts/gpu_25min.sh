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

# Everything is made in folders with other names and moved when it is whole: what is there, is complete.
collect() {
  [ -f "$work/run/checkpoint.pt" ] || return 0
  local new="$out/.new" # beside what it replaces, so that to move is to rename
  rm -rf "$work/slim" "$new"
  mkdir "$new"
  "$python" -m training.slim "$work/run" "$work/slim"
  split --bytes=15M --numeric-suffixes "$work/slim/checkpoint.pt" "$new/checkpoint.pt."
  cp "$work/run/config.json" "$new/"
  [ ! -f "$work/run/log.jsonl" ] || cp "$work/run/log.jsonl" "$new/"
  [ ! -d "$work/run/samples" ] ||
    tar -C "$work/run" -cf - samples | split --bytes=15M --numeric-suffixes - "$new/samples.tar."
  rm -f "$out"/checkpoint.pt.* "$out"/samples.tar*
  mv "$new"/* "$out/"
  (cd "$out" && sha256sum -- *.* >"$new/SHA256SUMS")
  mv "$new/SHA256SUMS" "$out/"
  rmdir "$new"
}

if compgen -G "$carry/wheels/*.whl" >/dev/null; then
  if [ ! -d "$work/site" ]; then
    rm -rf "$work/site.partial"
    "$python" -m pip install --quiet --no-index --no-deps --target "$work/site.partial" "$carry"/wheels/*.whl
    mv "$work/site.partial" "$work/site"
  fi
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
