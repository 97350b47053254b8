#!/usr/bin/env bash
# Runs tests on an emulated processor with AMX, for machines that have none: builds a test executable, boots Linux in
# Bochs with nothing else on it, prints what the tests print, and exits with their status.
#
#   scripts/amx-in-bochs.sh BOCHS VMLINUZ [CARGO TEST ARGUMENTS] [-- TEST ARGUMENTS]
#   scripts/amx-in-bochs.sh bochs vmlinuz -p engine --lib -- kernels::amx      (the default)
#
# BOCHS    a Bochs with AMX compiled in (from 2.8 on) that also has IA32_XFD, without which Linux hands out no tiles,
#          and saves tiles in XSAVE: Bochs 3.0 does neither as released. If its BIOS files have moved, set BXSHARE.
# VMLINUZ  a Linux kernel from 5.16 on, with serial console and initramfs; Debian's linux-image-cloud-amd64 will do.
# Needs xorriso, cpio, gzip, and ISOLINUX (Debian: isolinux, syslinux-common; elsewhere set ISOLINUX, SYSLINUX).
# MEGABYTES (1024) of memory, SECONDS_LIMIT (1800) of wall time. A guest second is 50 million instructions.
set -euo pipefail

die() { echo "amx-in-bochs: $*" >&2; exit 2; }
[ $# -ge 2 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
bochs=$(command -v "$1") || die "no program $1"
kernel=$2
[ -r "$kernel" ] || die "cannot read the kernel $kernel"
shift 2
isolinux=${ISOLINUX:-/usr/lib/ISOLINUX}
syslinux=${SYSLINUX:-/usr/lib/syslinux/modules/bios}
for file in "$isolinux/isolinux.bin" "$syslinux/ldlinux.c32"; do [ -r "$file" ] || die "cannot read $file"; done
for program in xorriso cpio gzip strip ldd; do command -v $program >/dev/null || die "no program $program"; done

build=() tests=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do build+=("$1"); shift; done
[ $# -gt 0 ] && { shift; tests=("$@"); }
[ ${#build[@]} -gt 0 ] || { build=(-p engine --lib); [ ${#tests[@]} -gt 0 ] || tests=(kernels::amx); }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/root/tmp" "$scratch/disc/isolinux"

# The whole system: the executable, the libraries it is linked with, and a first process that waits until the serial
# line has sent what the tests print.
cargo test --no-run "${build[@]}" 2>&1 | tee "$scratch/build" >&2
mapfile -t executables < <(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$scratch/build")
[ ${#executables[@]} -eq 1 ] || die "${#executables[@]} test executables, expected one: add --lib or --test NAME"
strip -o "$scratch/root/test" "${executables[0]}"
cat >"$scratch/init.rs" <<'RUST'
fn main() {
    use std::{env::args, os::unix::process::ExitStatusExt, process::{Command, exit}, thread::sleep, time::Duration};
    let status = Command::new("/test").args(args().skip(1)).status().expect("the tests start");
    sleep(Duration::from_secs(1));
    exit(status.code().unwrap_or(128 + status.signal().unwrap_or(0)));
}
RUST
rustc -o "$scratch/root/init" "$scratch/init.rs"
{ ldd "$scratch/root/test" "$scratch/root/init" || true; } | grep -o '/[^ :]*' | grep -v "^$scratch" | sort -u | while read -r library; do
    mkdir -p "$scratch/root$(dirname "$library")"
    cp -L "$library" "$scratch/root$library"
done
(cd "$scratch/root" && find . | cpio --quiet -o -H newc | gzip -1) >"$scratch/disc/initrd"
cp "$kernel" "$scratch/disc/vmlinuz"
cp "$isolinux/isolinux.bin" "$syslinux/ldlinux.c32" "$scratch/disc/isolinux/"
# fsrm: Linux takes this flag for a promise of fast strings, which the emulator withdraws in another place.
# The end of the first process panics the kernel, which prints the exit status.
cat >"$scratch/disc/isolinux/isolinux.cfg" <<CONFIG
default test
label test
  kernel /vmlinuz
  append initrd=/initrd rdinit=/init console=ttyS0 quiet tsc=reliable mitigations=off clearcpuid=fsrm random.trust_cpu=on -- --test-threads=1 --nocapture ${tests[*]}
CONFIG
xorriso -as mkisofs -quiet -r -o "$scratch/disc.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat \
    -no-emul-boot -boot-load-size 4 -boot-info-table "$scratch/disc" 2>"$scratch/xorriso" || { cat "$scratch/xorriso" >&2; exit 2; }

cat >"$scratch/bochsrc" <<CONFIG
cpu: model=sapphire_rapids, ips=50000000, reset_on_triple_fault=1
memory: guest=${MEGABYTES:-1024}, host=${MEGABYTES:-1024}
romimage: file=\$BXSHARE/BIOS-bochs-latest, options=fastboot
vgaromimage: file=\$BXSHARE/VGABIOS-lgpl/VGABIOS-lgpl-latest.bin
ata0-master: type=cdrom, path=$scratch/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$scratch/serial
display_library: nogui
clock: sync=none
log: $scratch/log
panic: action=fatal
CONFIG
touch "$scratch/serial"
"$bochs" -q -f "$scratch/bochsrc" >"$scratch/console" 2>&1 </dev/null &
emulator=$!
for ((second = 0; second < ${SECONDS_LIMIT:-1800}; second++)); do
    sleep 1
    if ! kill -0 $emulator 2>/dev/null || grep -q 'end Kernel panic' "$scratch/serial"; then break; fi
done
kill $emulator 2>/dev/null || true
wait $emulator || true

tr -d '\r' <"$scratch/serial" >"$scratch/output"
sed '/Kernel panic/,$d' "$scratch/output"
status=$(sed -n 's/.*Attempted to kill init! exitcode=0x\([0-9a-f]*\).*/\1/p' "$scratch/output" | head -1)
if [ -z "$status" ]; then
    tail -n 20 "$scratch/console" "$scratch/log" >&2
    die "the guest ended without a result"
fi
grep -h 'IPS' "$scratch/console" | tail -1 >&2 || true
exit $((16#$status >> 8 & 255))
