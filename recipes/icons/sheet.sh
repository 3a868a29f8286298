#!/usr/bin/env bash
# The contact sheets: sheet.sh [FOLDER] [options] draws each list of prompts, seeds from 0, the model's defaults,
# nothing picked, onto FOLDER/sheet.png (64 prompts, the README's), FOLDER/styles.png (7 subjects in 7 styles) and
# FOLDER/failures.png (what it cannot draw).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for name in sheet styles failures; do
    mapfile -t prompts < "$(dirname "$0")/$name.txt"
    calotype generate "${prompts[@]}" --seed 0 -o "$folder/$name-%d.png" --sheet "${1:-docs}/$name.png" "${@:2}"
done
