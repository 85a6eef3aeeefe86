#!/usr/bin/env bash
# Install the two Debian packages that let Vulkan variants run on a machine without a GPU:
#
#   libvulkan1           the Vulkan loader, which IREE's runtime opens
#   mesa-vulkan-drivers  Mesa's drivers, among them lavapipe, a Vulkan device made of the CPU
#
# Nothing else is installed or changed. Without them hwc works all the same: Vulkan variants are compiled, have
# status "unverified" and cannot be promoted. This script therefore never fails a build.
set -uo pipefail

packages=(libvulkan1 mesa-vulkan-drivers)
why="libvulkan1 (Vulkan loader) and mesa-vulkan-drivers (lavapipe: Vulkan on the CPU), to check Vulkan variants here"

go_on() {
    echo "Vulkan variants will be compiled, but stay unverified: $1" >&2
    echo "  to mend it: install $why" >&2
    exit 0
}

found_driver() { compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' || compgen -G '/etc/vulkan/icd.d/lvp_icd*.json'; }
found_loader() { compgen -G '/usr/lib/*/libvulkan.so.1' || compgen -G '/usr/lib*/libvulkan.so.1'; }
if found_driver >/dev/null && found_loader >/dev/null; then
    exit 0
fi

command -v apt-get >/dev/null || go_on "this is not a Debian system, and lavapipe was not found"
as_root=()
if [ "$(id -u)" != 0 ]; then
    { command -v sudo >/dev/null && sudo -n true 2>/dev/null; } || go_on "lavapipe is missing, and this user is not root"
    as_root=(sudo -n)
fi

echo "installing $why"
export DEBIAN_FRONTEND=noninteractive
install=("${as_root[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}")
"${install[@]}" >/dev/null 2>&1 ||
    { "${as_root[@]}" apt-get update -q >/dev/null 2>&1 && "${install[@]}" >/dev/null; } ||
    go_on "apt-get could not install them"
