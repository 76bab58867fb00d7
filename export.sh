#!/usr/bin/env bash
# Writes what the platform takes as uploads:
#
#   ./export.sh [image|sbom|weights|all] [FOLDER] [--without-weights]
#
#   FOLDER                           dist/ unless given
#   oarseg-<version>.tar.gz          the image that build.sh made; with --without-weights, the
#                                    one of ./build.sh --without-weights, which it builds: the
#                                    phantom weights cannot stand in for a model
#   oarseg-<version>.cdx.json        what that image is made of (CycloneDX), and
#   SHA256SUMS                       the hashes of all files in the folder
#   oarseg-weights-<version>.tar.gz  weights/, which it unpacks to /opt/ml/model
set -euo pipefail
cd "$(dirname "$0")"

without=
arguments=()
for argument in "$@"; do
  if [ "$argument" = --without-weights ]; then without=-without-weights; else arguments+=("$argument"); fi
done
what=${arguments[0]:-all}
folder=${arguments[1]:-dist}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' oarseg/__init__.py)
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
  docker save "$image" | compress >"$file.part"
  finish "$file"
  export_sbom
}

# The image lists itself: what is there counts, not what was asked for.
export_sbom() {
  local file=$folder/oarseg-$version$without.cdx.json
  docker run --rm --network none --read-only --entrypoint /opt/venv/bin/python \
    "$image" -m oarseg.cli.sbom >"$file.part"
  finish "$file"
}

# Relative members, and the same bytes for the same weights whoever packs them.
export_weights() {
  local file=$folder/oarseg-weights-$version.tar.gz
  tar --create --directory weights --sort=name --owner=0 --group=0 --numeric-owner \
    --mode=u=rwX,go=rX --mtime='2000-01-01 00:00Z' . | gzip -n >"$file.part"
  finish "$file"
}

mkdir -p "$folder"
case $what in
  image) export_image ;;
  sbom) export_sbom ;;
  weights) export_weights ;;
  all) export_weights; export_image ;;
  *) sed -n '2,12p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2 ;;
esac

cd "$folder"
find . -maxdepth 1 -name 'oarseg-*' ! -name '*.part' -printf '%f\n' | sort | xargs sha256sum >SHA256SUMS
