#!/usr/bin/env bash
# Runs cases through the image as Grand Challenge would; needs Docker and nothing else.
#
#   ./test_run.sh CASES [WEIGHTS] [OUT] [EXPECTED]
#
#   CASES     a job's /input (images/<slug>/ or inputs.json), or a folder of such folders, each a
#             job of its own; or cases as in a data set, all in one run
#   WEIGHTS   a folder that oarseg export wrote; - for the image's own (default)
#   OUT       a folder for each job's output (default: test_out)
#   EXPECTED  a folder of the same form, to compare label files with
#
# MEMORY=8g is the limit; without it 16g. The image is built if there is none, or an older one.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 4 ] || [ ! -d "$1" ]; then
  sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//' >&2
  exit 2
fi
folder() { # an absolute path, of a folder that must be there
  [ -d "$1" ] || { echo "$1: expected a folder, found none" >&2; exit 2; }
  (cd "$1" && pwd)
}
cases=$(folder "$1")
weights=${2:--}
[ "$weights" = - ] || weights=$(folder "$weights")
mkdir -p "${3:-test_out}"
out=$(folder "${3:-test_out}")
expected=${4:+$(folder "$4")}
cd "$(dirname "$0")"
. ./.image.sh

image=oarseg:$version
if [ "$(image_hash "$image")" != "$(source_hash)" ]; then
  echo "building $image: there is none of this code"
  ./build.sh --quiet
fi

is_job() { [ -d "$1/images" ] || [ -e "$1/inputs.json" ]; }
jobs=()
if is_job "$cases"; then
  jobs=("$cases")
else
  for below in "$cases"/*/; do if is_job "${below%/}"; then jobs+=("${below%/}"); fi; done
fi
[ ${#jobs[@]} -gt 0 ] || jobs=("$cases")

options=("${platform_flags[@]}" --memory "${MEMORY:-16g}" --memory-swap "${MEMORY:-16g}")
if docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q nvidia; then options+=(--gpus all); fi
model=()
[ "$weights" = - ] || model=(--volume "$weights:/opt/ml/model:ro")
# The caller's own user, or the image's: the platform's is never root.
user=()
[ "$(id -u)" = 0 ] || user=(--user "$(id -u):$(id -g)")

failed=0
table=()
for job in "${jobs[@]}"; do
  name=$(basename "$job")
  mkdir -p "$out/$name"
  [ "$(id -u)" != 0 ] || chown 1000:1000 "$out/$name"
  echo "== $name"
  start=$SECONDS
  status=0
  docker run --rm "${options[@]}" ${user[@]+"${user[@]}"} ${model[@]+"${model[@]}"} \
    --volume "$job:/input:ro" --volume "$out/$name:/output" "$image" || status=$?
  compared=()
  if [ -n "$expected" ]; then
    compared=(--volume "$(folder "$expected/$name"):/expected:ro")
  fi
  verdict=0
  oarseg_in_image ${model[@]+"${model[@]}"} --volume "$out/$name:/output:ro" \
    ${compared[@]+"${compared[@]}"} "$image" -m oarseg.cli submission --output /output \
    ${compared[@]+--expected /expected} || verdict=$?
  table+=("$name: exit status $status, $((SECONDS - start)) s, check $([ $verdict = 0 ] && echo passed || echo failed)")
  if [ $status != 0 ] || [ $verdict != 0 ]; then failed=1; fi
done
echo "== ${#jobs[@]} job(s), written to $out"
printf '%s\n' "${table[@]}"
exit $failed
