#!/usr/bin/env bash
# Writes what the platform takes as uploads:
#
#   ./export.sh [image|weights|all] [FOLDER]      FOLDER is dist/ unless given
#
#   oarseg-<version>.tar.gz          the image that build.sh made
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
  weights) export_weights ;;
  all) export_weights; export_image ;;
  *) sed -n '2,7p' "$0" | sed 's/^# \{0,1\}//' >&2; exit 2 ;;
esac
