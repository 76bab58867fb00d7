#!/usr/bin/env bash
# Writes what the platform takes as uploads:
#
#   ./export.sh [image|sbom|weights|all] [FOLDER]      FOLDER is dist/ unless given
#
#   oarseg-<version>.tar.gz          the image that build.sh made
#   oarseg-<version>.cdx.json        what that image is made of (CycloneDX), and
#   SHA256SUMS                       the hashes of all files in the folder
#   oarseg-weights-<version>.tar.gz  weights/, which it unpacks to /opt/ml/model
set -euo pipefail
cd "$(dirname "$0")"

what=${1:-all}
folder=${2:-dist}
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' oarseg/__init__.py)

# pigz writes the same format with all cores; -n leaves the date out.
compress() { if command -v pigz >/dev/null; then pigz -n; else gzip -n; fi; }

# A file of that name is always whole.
finish() {
  mv "$1.part" "$1"
  du -h "$1"
}

export_image() {
  local file=$folder/oarseg-$version.tar.gz
  docker save "oarseg:$version" | compress >"$file.part"
  finish "$file"
  export_sbom
}

# The image lists itself: what is there counts, not what was asked for.
export_sbom() {
  local file=$folder/oarseg-$version.cdx.json
  docker run --rm --network none --read-only --entrypoint /opt/venv/bin/python \
    "oarseg:$version" -m oarseg.cli.sbom >"$file.part"
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
  *) sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2 ;;
esac

cd "$folder"
find . -maxdepth 1 -name 'oarseg-*' ! -name '*.part' -printf '%f\n' | sort | xargs sha256sum >SHA256SUMS
