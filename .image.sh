#!/usr/bin/env bash
# What build.sh, test_run.sh and export.sh know of the image; they source it.
set -euo pipefail

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' oarseg/__init__.py)
label=oarseg.source

# Hash of all that goes into the image, which its label keeps.
source_hash() {
  find Dockerfile requirements*.txt docker process.py oarseg weights -type f ! -name '*.pyc' ! -path '*/.*' -print0 |
    LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

# Empty where there is no such image, or an older one without the label.
image_hash() {
  docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$1" 2>/dev/null || true
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
