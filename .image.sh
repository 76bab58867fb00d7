#!/usr/bin/env bash
# What build.sh, test_run.sh and export.sh know of the image; they source it.
set -euo pipefail

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' oarseg/__init__.py)
label=oarseg.source

# Which image: what was asked for stands in its name, in this order whatever the order it came in.
cpu= invoke= without=
take_variant() { # false for what is no choice of an image
  case $1 in
    --cpu) cpu=-cpu ;;
    --invoke) invoke=-invoke ;;
    --without-weights) without=-without-weights ;;
    *) return 1 ;;
  esac
}
variant_name() { echo "$cpu$invoke$without"; }
build_variant() { ./build.sh ${cpu:+--cpu} ${invoke:+--invoke} ${without:+--without-weights} "$@"; }

# Hash of all that goes into the image, which its label keeps.
source_hash() {
  find Dockerfile requirements*.txt docker process.py oarseg weights -type f ! -name '*.pyc' ! -path '*/.*' -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

# Empty where there is no such image, or an older one without the label.
image_hash() {
  docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null || true
}

need_docker() {
  command -v docker >/dev/null || {
    echo "expected Docker, found no docker command; install it (https://docs.docker.com/engine/install/)" >&2
    exit 2
  }
  docker version >/dev/null 2>&1 || {
    echo "expected a Docker engine that answers, found: $(docker version 2>&1 >/dev/null | tail -1)" >&2
    exit 2
  }
}

# A path that `docker run --volume` takes.
mountable() {
  case $1 in *:*) echo "$1: expected a path without a colon, which Docker cannot mount; rename it" >&2; exit 2 ;; esac
}

# As the platform runs it; the root read-only besides.
platform_flags=(
  --network none --cap-drop ALL --security-opt no-new-privileges --read-only --tmpfs /tmp
  --shm-size 128m --pids-limit 256
)

# Where the image has Python and the command line.
oarseg_in_image() {
  docker run --rm --network none --read-only --tmpfs /tmp --entrypoint /opt/venv/bin/python "$@"
}
