#!/usr/bin/env bash
# Writes what the platform takes as uploads:
#
#   ./export.sh [image|sbom|weights|all] [FOLDER] [--weights WEIGHTS]
#               [--cpu] [--invoke] [--without-weights]
#
#   FOLDER                           dist/ unless given
#   WEIGHTS                          a folder that oarseg export wrote; weights/ unless given
#   oarseg-<version>.tar.gz          the image that build.sh made; with --cpu, --invoke or
#                                    --without-weights, the one of ./build.sh with these, which it
#                                    builds if it is older than the code: oarseg-<version>-cpu.tar.gz
#   oarseg-<version>.cdx.json        what that image is made of (CycloneDX), and
#   SHA256SUMS                       the hashes of all files in the folder
#   oarseg-weights-<version>.tar.gz  WEIGHTS, which the platform unpacks to /opt/ml/model
#
# It ends with what to upload where, and with the algorithm's settings.
set -euo pipefail

script=$(realpath "$0")
usage() { sed -n '2,16p' "$script" | sed 's/^# \{0,1\}//' >&2; exit 2; }
here=$PWD
cd "$(dirname "$0")"
. ./.image.sh
from_here() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }

weights=$PWD/weights
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --weights) weights=$(from_here "${2-}")
      [ -f "$weights/manifest.json" ] || {
        echo "${2-}: expected a folder with manifest.json, that oarseg export wrote" >&2; exit 2; }
      shift ;;
    -*) take_variant "$1" || usage ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
what=${arguments[0]:-all}
case $what in image|sbom|weights|all) ;; *) usage ;; esac
[ "${#arguments[@]}" -le 2 ] || usage
mountable "$weights"
folder=${arguments[1]:+$(from_here "${arguments[1]}")}
folder=${folder:-$PWD/dist}
mkdir -p "$folder"
name=$version$(variant_name)
image=oarseg:$name

# pigz writes the same format with all cores; -n leaves the date out.
compress() { if command -v pigz >/dev/null; then pigz -n; else gzip -n; fi; }

# A file of that name is always whole.
finish() {
  mv "$1.part" "$1"
  du -h "$1"
}

# The variants are built here; the whole image is the one that was tried, or none is there.
find_image() {
  need_docker
  if [ "$(image_hash "$image")" = "$(source_hash)" ]; then return; fi
  if [ -n "$(variant_name)" ] || ! docker image inspect "$image" >/dev/null 2>&1; then
    echo "building $image, which takes minutes: there is none of this code" >&2
    build_variant >&2
  else
    echo "warning: $image is older than the code; ./build.sh makes it anew" >&2
  fi
}

export_image() {
  local file=$folder/oarseg-$name.tar.gz
  find_image
  docker save "$image" | compress >"$file.part"
  finish "$file"
  export_sbom
}

# The image lists itself: what is there counts, not what was asked for.
export_sbom() {
  local file=$folder/oarseg-$name.cdx.json
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
  echo "1. Algorithm, Containers: upload $folder/oarseg-$name.tar.gz"
  echo "2. Algorithm, Models: upload $folder/oarseg-weights-$version.tar.gz"
  echo "3. Algorithm, Settings:"
  oarseg_in_image --volume "$weights:/opt/ml/model:ro" "$image" -m oarseg.cli submission ||
    echo "   oarseg submission --weights … --largest Z Y X --spacing Z Y X tells the memory"
}

case $what in
  image) export_image ;;
  sbom) find_image; export_sbom ;;
  weights) export_weights ;;
  all) export_weights; export_image ;;
esac

(cd "$folder" &&
  find . -maxdepth 1 -name 'oarseg-*' ! -name '*.part' -printf '%f\n' | sort | xargs sha256sum >SHA256SUMS)
if [ "$what" = all ]; then next_steps; fi
