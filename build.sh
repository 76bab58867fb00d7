#!/usr/bin/env bash
# Builds the image as oarseg:<version> and oarseg:latest. Options go to `docker build`, but for
# these, which come first:
#   --cpu              without CUDA, as oarseg:<version>-cpu
#   --without-weights  without the phantom weights, as oarseg:<version>-without-weights: it runs
#                      only with a model of your own
set -euo pipefail
cd "$(dirname "$0")"
. ./.image.sh

options=(--tag "oarseg:$version" --tag oarseg:latest)
case ${1-} in
  --cpu)
    shift
    options=(--tag "oarseg:$version-cpu" --build-arg REQUIREMENTS=requirements-cpu.txt)
    ;;
  --without-weights)
    shift
    options=(--tag "oarseg:$version-without-weights" --build-arg WITH_WEIGHTS=0)
    ;;
esac
docker build --platform=linux/amd64 --build-arg "VERSION=$version" --label "$label=$(source_hash)" \
  "${options[@]}" "$@" .
