#!/usr/bin/env bash
# Builds the image as oarseg:<version> and oarseg:latest. Options go to `docker build`, but for
# these, which come first:
#   --cpu              without CUDA, as oarseg:<version>-cpu
#   --invoke           for Grand Challenge's invoke mode, as oarseg:<version>-invoke: a server that
#                      keeps its networks open from case to case
#   --without-weights  without the phantom weights, as oarseg:<version>-without-weights: it runs
#                      only with a model of your own
set -euo pipefail
cd "$(dirname "$0")"
. ./.image.sh

while take_variant "${1-}"; do shift; done
need_docker
options=()
[ -z "$cpu" ] || options+=(--build-arg REQUIREMENTS=requirements-cpu.txt)
[ -z "$invoke" ] || options+=(--build-arg API_METHOD=invoke)
[ -z "$without" ] || options+=(--build-arg WITH_WEIGHTS=0)
options+=(--tag "oarseg:$version$(variant_name)")
[ -n "$(variant_name)" ] || options+=(--tag oarseg:latest)
docker build --platform=linux/amd64 --build-arg "VERSION=$version" --label "$label=$(source_hash)" \
  "${options[@]}" "$@" .
