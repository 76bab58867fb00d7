#!/usr/bin/env bash
# Builds the image as oarseg:<version> and oarseg:latest. Options go to `docker build`.
set -euo pipefail
cd "$(dirname "$0")"

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' oarseg/__init__.py)
docker build --platform=linux/amd64 --build-arg "VERSION=$version" \
  --tag "oarseg:$version" --tag oarseg:latest "$@" .
