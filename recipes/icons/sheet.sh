#!/usr/bin/env bash
# The README's contact sheet: 64 prompts, seeds 0 to 63, the model's defaults, nothing picked.
set -euo pipefail
mapfile -t prompts < "$(dirname "$0")/prompts.txt"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
calotype generate "${prompts[@]}" --seed 0 -o "$folder/%d.png" --sheet "${1:-docs/sheet.png}" "${@:2}"
