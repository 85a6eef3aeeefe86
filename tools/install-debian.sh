#!/usr/bin/env bash
# Install the Debian packages that let variants run on a machine without their chip:
#
#   libvulkan1, mesa-vulkan-drivers   Vulkan on the CPU: the loader, and lavapipe, which is a Vulkan device
#   qemu-user                         executes the code of a RISC-V chip, instruction by instruction
#   gcc, libc6-dev,                   compile our own sources around it, once, in seconds: the driver and the counter
#   gcc-riscv64-linux-gnu,            for this machine, and
#   libc6-dev-riscv64-cross           the agent for the emulated core
#
# Nothing else is installed or changed. Without them hwc works all the same: such variants are compiled, have status
# "unverified" and cannot be promoted. This script therefore never fails a build. With `--vulkan` or `--emulator` it
# looks after one of the two alone.
set -uo pipefail

vulkan=(libvulkan1 mesa-vulkan-drivers)
emulator=(qemu-user gcc libc6-dev gcc-riscv64-linux-gnu libc6-dev-riscv64-cross)
packages=()

found_driver() { compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' || compgen -G '/etc/vulkan/icd.d/lvp_icd*.json'; }
found_loader() { compgen -G '/usr/lib/*/libvulkan.so.1' || compgen -G '/usr/lib*/libvulkan.so.1'; }
found_emulator() { command -v qemu-riscv64 && command -v gcc && command -v riscv64-linux-gnu-gcc; }
found_cross_libc() { compgen -G '/usr/riscv64-linux-gnu/lib/libc.a'; }
if [ "${1:---vulkan}" = --vulkan ] && ! { found_driver && found_loader; } >/dev/null; then
    packages+=("${vulkan[@]}")
    echo "lavapipe is missing: Vulkan on the CPU, with which Vulkan variants are checked here" >&2
fi
if [ "${1:---emulator}" = --emulator ] && ! { found_emulator && found_cross_libc; } >/dev/null; then
    packages+=("${emulator[@]}")
    echo "the RISC-V emulator is missing, with which variants for emulated chips are checked here" >&2
fi
[ ${#packages[@]} -gt 0 ] || exit 0

go_on() {
    echo "these variants will be compiled, but stay unverified: $1" >&2
    echo "  to mend it: apt-get install ${packages[*]}" >&2
    exit 0
}

command -v apt-get >/dev/null || go_on "this is not a Debian system"
as_root=()
if [ "$(id -u)" != 0 ]; then
    { command -v sudo >/dev/null && sudo -n true 2>/dev/null; } || go_on "this user is not root"
    as_root=(sudo -n)
fi

echo "installing ${packages[*]}"
export DEBIAN_FRONTEND=noninteractive
install=("${as_root[@]}" apt-get install -y -q --no-install-recommends "${packages[@]}")
"${install[@]}" >/dev/null 2>&1 ||
    { "${as_root[@]}" apt-get update -q >/dev/null 2>&1 && "${install[@]}" >/dev/null; } ||
    go_on "apt-get could not install them"
