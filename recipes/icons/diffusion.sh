#!/usr/bin/env bash
# The diffusion model of `icons` in its three stages: diffusion.sh DATA AUTOENCODER [FOLDER] [more options]
# Run it again to go on where it was stopped.
set -euo pipefail
data=$1 autoencoder=$2 folder=${3:-runs}
pairs=(--set balance.pair=0.6)
calotype train text "$data" --autoencoder "$autoencoder" --out "$folder/text" "${pairs[@]}" \
    --resume "${@:4}"
calotype train diffusion "$data" --recipe icons-coarse --autoencoder "$autoencoder" \
    --text-encoder "$folder/text/model.safetensors" --out "$folder/coarse" "${pairs[@]}" --resume "${@:4}"
calotype train diffusion "$data" --recipe icons --init-from "$folder/coarse/model.safetensors" \
    --out "$folder/diffusion" "${pairs[@]}" --resume "${@:4}"
