#!/usr/bin/env bash
# Writes what the platform takes as uploads:
#
#   ./export.sh [image|sbom|weights|all] [FOLDER] [--weights WEIGHTS] [--without-weights]
#
#   FOLDER                           dist/ unless given
#   WEIGHTS                          a folder that oarseg export wrote; weights/ unless given
#   oarseg-<version>.tar.gz          the image that build.sh made; with --without-weights, the
#                                    one of ./build.sh --without-weights, which it builds: the
#                                    phantom weights cannot stand in for a model
#   oarseg-<version>.cdx.json        what that image is made of (CycloneDX), and
#   SHA256SUMS                       the hashes of all files in the folder
#   oarseg-weights-<version>.tar.gz  WEIGHTS, which the platform unpacks to /opt/ml/model
#
# It ends with what to upload where, and with the algorithm's settings.
set -euo pipefail

usage() { sed -n '2,15p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2; }
without=
weights=
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --without-weights) without=-without-weights ;;
    --weights) [ -f "${2-}/manifest.json" ] || { echo "${2-}: expected a folder with manifest.json, that oarseg export wrote" >&2; exit 2; }
      weights=$(cd "$2" && pwd); shift ;;
    -*) usage ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
what=${arguments[0]:-all}
mkdir -p "${arguments[1]:-$(dirname "$0")/dist}"
folder=$(cd "${arguments[1]:-$(dirname "$0")/dist}" && pwd)
cd "$(dirname "$0")"
. ./.image.sh
weights=${weights:-$PWD/weights}
image=oarseg:$version$without

# pigz writes the same format with all cores; -n leaves the date out.
compress() { if command -v pigz >/dev/null; then pigz -n; else gzip -n; fi; }

# A file of that name is always whole.
finish() {
  mv "$1.part" "$1"
  du -h "$1"
}

export_image() {
  local file=$folder/oarseg-$version$without.tar.gz
  if [ -n "$without" ]; then ./build.sh --without-weights >&2; fi
  if [ "$(image_hash "$image")" != "$(source_hash)" ]; then
    echo "warning: $image is older than the code, or not there; ./build.sh makes it anew" >&2
  fi
  docker save "$image" | compress >"$file.part"
  finish "$file"
  export_sbom
}

# The image lists itself: what is there counts, not what was asked for.
export_sbom() {
  local file=$folder/oarseg-$version$without.cdx.json
  oarseg_in_image "$image" -m oarseg.cli.sbom >"$file.part"
  finish "$file"
}

# Relative members, and the same bytes for the same weights whoever packs them.
export_weights() {
  local file=$folder/oarseg-weights-$version.tar.gz
  tar --create --directory "$weights" --sort=name --owner=0 --group=0 --numeric-owner \
    --mode=u=rwX,go=rX --mtime='2000-01-01 00:00Z' . | gzip -n >"$file.part"
  finish "$file"
}

next_steps() {
  echo
  echo "On Grand Challenge (docs/submission.md):"
  echo "1. Algorithm, Containers: upload $folder/oarseg-$version$without.tar.gz"
  echo "2. Algorithm, Models: upload $folder/oarseg-weights-$version.tar.gz"
  echo "3. Algorithm, Settings:"
  oarseg_in_image --volume "$weights:/opt/ml/model:ro" "$image" -m oarseg.cli submission ||
    echo "   oarseg submission --largest Z Y X --spacing Z Y X tells the memory"
}

case $what in
  image) export_image ;;
  sbom) export_sbom ;;
  weights) export_weights ;;
  all) export_weights; export_image ;;
  *) usage ;;
esac

(cd "$folder" &&
  find . -maxdepth 1 -name 'oarseg-*' ! -name '*.part' -printf '%f\n' | sort | xargs sha256sum >SHA256SUMS)
if [ "$what" = all ]; then next_steps; fi
