#!/bin/sh
# Unpacks Debian's docker-registry into a new folder and prints where the program
# is. To install the package would start a registry on port 5000 of the machine,
# open to all.
set -eu
mkdir -p "$1"
cd "$1"
download() { apt-get --quiet -o APT::Sandbox::User=root download docker-registry >&2; }
download || { apt-get --quiet update >&2 && download; }
dpkg-deb --extract docker-registry_*.deb .
echo "$PWD/usr/bin/docker-registry"
