#!/usr/bin/env bash
# need.sh build|check|stack|test|causes|cost|truth|picture|fuzz : makes sure that the system has what this purpose needs.
#
# What is there already, from wherever it came, is left alone. What is missing is installed by its Debian package name,
# as root or with sudo; without either it says what to install and stops.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"

build=(gcc libc6-dev pkg-config libssl-dev)
stack=(dovecot-imapd openssl jq curl python3-venv)
check=(shellcheck)
test=(docker-compose iproute2 strace systemd)
causes=(iproute2 sshfs openssh-sftp-server e2fsprogs)
cost=(python3 prometheus-blackbox-exporter)
truth=(tcpdump tshark)
picture=(python3 chromium pngquant)
fuzz=(g++) # libFuzzer is C++

# Is what the package is wanted for there?
there() {
  case $1 in
    gcc) command -v cc ;;
    libc6-dev) [ -e /usr/include/stdio.h ] ;;
    libssl-dev) pkg-config --exists openssl ;;
    systemd) command -v systemd-analyze ;; # its tools alone, it need not run
    openssh-sftp-server) [ -x /usr/lib/openssh/sftp-server ] ;;
    e2fsprogs) command -v mkfs.ext4 ;;
    iproute2) command -v ip && command -v tc ;;
    dovecot-imapd) [ -x /usr/lib/dovecot/imap ] || [ -x /usr/libexec/dovecot/imap ] ;;
    python3-venv) command -v go || python3 -c 'import ensurepip' ;; # only ever used to fetch Go
    python3) [ -x /usr/bin/python3 ] ;; # Debian's own
    *) command -v "$1" ;;
  esac >/dev/null 2>&1
}

case ${1:-} in
  build) want=("${build[@]}") ;;
  stack) want=("${build[@]}" "${stack[@]}") ;;
  check) want=("${build[@]}" "${check[@]}") ;;
  test) want=("${build[@]}" "${check[@]}" "${stack[@]}" "${test[@]}") ;;
  causes) want=("${build[@]}" "${stack[@]}" "${causes[@]}") ;;
  cost) want=("${build[@]}" "${stack[@]}" "${cost[@]}") ;;
  truth) want=("${build[@]}" "${stack[@]}" "${truth[@]}") ;;
  picture) want=("${picture[@]}") ;;
  fuzz) want=("${build[@]}" "${fuzz[@]}") ;;
  *) die "usage: need.sh build|check|stack|test|causes|cost|truth|picture|fuzz" ;;
esac
command -v cargo >/dev/null || die "cargo is missing: install Rust with rustup (https://rustup.rs), then try again"

# macOS has what a build needs: its own TLS, and a compiler without which there is no make.
[ "$(uname):$1" != Darwin:build ] || exit 0

missing=()
for package in "${want[@]}"; do there "$package" || missing+=("$package"); done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || die "please install what these Debian packages hold, then try again: ${missing[*]}"
if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  die "please have these packages installed, then try again: apt-get install ${missing[*]}"
fi
say "installing: ${missing[*]}"
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
# Packages say much that nobody needs to read, unless it went wrong.
said=$({ "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } 2>&1) ||
  { printf '%s\n' "$said" >&2; die "these packages could not be installed: ${missing[*]}"; }

# Debian starts a service when its package is installed. Nobody asked for one here: ours run on loopback, as needed.
for package in "${missing[@]}"; do
  case $package in
    dovecot-imapd) services=(dovecot.service dovecot.socket) ;;
    prometheus-blackbox-exporter) services=(prometheus-blackbox-exporter.service) ;;
    *) continue ;;
  esac
  [ ! -d /run/systemd/system ] || "${as_root[@]}" systemctl disable --now "${services[@]}"
done
for package in "${missing[@]}"; do there "$package" || die "$package was installed, but what it is for is still not to be found"; done
