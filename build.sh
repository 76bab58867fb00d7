#!/usr/bin/env bash
# Builds the image as oarseg:<version> and oarseg:latest. Options go to `docker build`.
# With --without-weights first, as oarseg:<version>-without-weights and without the phantom
# weights: it runs only with a model of your own.
set -euo pipefail
cd "$(dirname "$0")"
. ./.image.sh

options=(--tag "oarseg:$version" --tag oarseg:latest)
if [ "${1-}" = --without-weights ]; then
  shift
  options=(--tag "oarseg:$version-without-weights" --build-arg WITH_WEIGHTS=0)
fi
docker build --platform=linux/amd64 --build-arg "VERSION=$version" --label "$label=$(source_hash)" \
  "${options[@]}" "$@" .
