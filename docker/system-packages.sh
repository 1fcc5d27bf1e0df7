#!/bin/sh
# Debian packages that the tests use where they are present: a PACS, DICOM tools, a browser, a database server.
set -eu
packages="orthanc orthanc-dicomweb dcmtk dicom3tools chromium postgresql make python3-venv"
missing=""
for package in $packages; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -n "$missing" ] || { echo "system packages are present"; exit 0; }
[ "$(id -u)" -eq 0 ] || { echo "run as root to install:$missing" >&2; exit 2; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086
apt-get install -y -q --no-install-recommends $missing
