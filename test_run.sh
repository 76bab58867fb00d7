#!/usr/bin/env bash
# Runs cases through the image as Grand Challenge would; needs Docker and nothing else.
#
#   ./test_run.sh [--cpu] [--invoke] CASES [WEIGHTS] [OUT] [EXPECTED]
#
#   --cpu     the image without CUDA
#   --invoke  the image that serves: it is asked as the platform would, once a job
#   CASES     a job's /input (images/<slug>/ or inputs.json), or a folder of such folders, each a
#             job of its own; or cases as in a data set, all in one run
#   WEIGHTS   a folder that oarseg export wrote; - for the image's own (default)
#   OUT       a folder for each job's output (default: test_out); an earlier run's are kept beside
#             them, as <job>.1, <job>.2 …
#   EXPECTED  a folder of the same form, to compare label files with
#
# MEMORY=8g is the limit; without it 16g. The image is built if there is none, or an older one.
set -euo pipefail

script=$(realpath "$0")
usage() { sed -n '2,16p' "$script" | sed 's/^# \{0,1\}//' >&2; exit 2; }
here=$PWD
cd "$(dirname "$0")"
. ./.image.sh
while take_variant "${1-}"; do shift; done
case ${1--} in -*) usage ;; esac
[ $# -le 4 ] || usage
folder() { # an absolute path, of a folder that must be there
  [ -d "$1" ] || { echo "$1: expected a folder, found none" >&2; exit 2; }
  (cd "$1" && pwd)
}
cd "$here"
cases=$(folder "$1")
weights=${2:--}
[ "$weights" = - ] || weights=$(folder "$weights")
expected=${4:+$(folder "$4")}
for path in "$cases" "$weights" "$expected"; do mountable "$path"; done
if [ "$weights" != - ] && [ ! -f "$weights/manifest.json" ]; then
  echo "$2: expected a folder with manifest.json, that oarseg export wrote" >&2
  exit 2
fi
mkdir -p "${3:-test_out}"
out=$(folder "${3:-test_out}")
cd - >/dev/null
mountable "$out"
need_docker

is_job() { [ -d "$1/images" ] || [ -e "$1/inputs.json" ]; }
jobs=()
if is_job "$cases"; then
  jobs=("$cases")
else
  for below in "$cases"/*/; do if is_job "${below%/}"; then jobs+=("${below%/}"); fi; done
fi
several=()
if [ ${#jobs[@]} = 0 ]; then
  echo "no images/ or inputs.json in $cases, nor in a folder of it: all of it is one run"
  jobs=("$cases")
  several=(--several)
fi
# The platform's /output is empty; what an earlier run wrote is kept under another name.
for job in "${jobs[@]}"; do
  name=$(basename "$job")
  mountable "$job"
  [ -z "$expected" ] || folder "$expected/$name" >/dev/null
  [ "$out/$name" != "$job" ] || { echo "$out: expected another folder than that of the cases" >&2; exit 2; }
  mkdir -p "$out/$name"
  if [ -n "$(ls -A "$out/$name")" ]; then
    number=1
    while [ -e "$out/$name.$number" ]; do number=$((number + 1)); done
    mv "$out/$name" "$out/$name.$number"
    mkdir "$out/$name"
  fi
done

image=oarseg:$version$(variant_name)
if [ "$(image_hash "$image")" != "$(source_hash)" ]; then
  echo "building $image, which takes minutes: there is none of this code"
  build_variant --quiet
fi

options=("${platform_flags[@]}" --memory "${MEMORY:-16g}" --memory-swap "${MEMORY:-16g}")
if docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q nvidia; then options+=(--gpus all); fi
model=()
[ "$weights" = - ] || model=(--volume "$weights:/opt/ml/model:ro")
# The caller's own user, or the image's: the platform's is never root.
user=()
[ "$(id -u)" = 0 ] || user=(--user "$(id -u):$(id -g)")

# Asks the server as the platform does, from inside, as there is no network.
client='
import http.client, sys, time

def ask(method, path):
    connection = http.client.HTTPConnection("127.0.0.1", 4743)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode().strip()

for attempt in range(300):
    try:
        if ask("GET", "/health")[0] == 200:
            break
    except ConnectionError:
        pass
    time.sleep(1)
status, text = ask("POST", "/invoke")
print(f"POST /invoke: {status} {text}")
sys.exit(status != 201)
'
run_image() {
  if [ -z "$invoke" ]; then docker run --rm "$@"; return; fi
  local name=oarseg-test-run-$$ status=0
  docker run --detach --name "$name" "$@" >/dev/null
  docker exec "$name" /opt/venv/bin/python -c "$client" || status=$?
  docker stop --time 5 "$name" >/dev/null
  docker logs "$name"
  docker rm --force "$name" >/dev/null
  return $status
}

failed=0
table=()
for job in "${jobs[@]}"; do
  name=$(basename "$job")
  [ "$(id -u)" != 0 ] || chown 1000:1000 "$out/$name"
  echo "== $name"
  start=$SECONDS
  status=0
  run_image "${options[@]}" ${user[@]+"${user[@]}"} ${model[@]+"${model[@]}"} \
    --volume "$job:/input:ro" --volume "$out/$name:/output" "$image" || status=$?
  compared=()
  if [ -n "$expected" ]; then
    compared=(--volume "$(folder "$expected/$name"):/expected:ro")
  fi
  verdict=0
  oarseg_in_image ${model[@]+"${model[@]}"} --volume "$out/$name:/output:ro" \
    ${compared[@]+"${compared[@]}"} "$image" -m oarseg.cli submission --output /output \
    ${several[@]+"${several[@]}"} ${compared[@]+--expected /expected} || verdict=$?
  table+=("$name: exit status $status, $((SECONDS - start)) s, check $([ $verdict = 0 ] && echo passed || echo failed)")
  if [ $status != 0 ] || [ $verdict != 0 ]; then failed=1; fi
done
echo "== ${#jobs[@]} job(s), written to $out"
printf '%s\n' "${table[@]}"
exit $failed
