#!/usr/bin/env bash
# Cyrus, Courier and Dovecot 2.4 for the tests: mail servers that Debian does not let be installed beside Dovecot 2.3, nor beside
# each other. Dovecot 2.4 comes from a newer Debian.
#
#   servers.sh prepare [NAME...]              puts cyrus, courier and dovecot24, or those named, into the cache; what is there
#                                             stays
#   servers.sh run NAME DIR PLAIN TLS         runs one on these two ports of loopback until standard input ends;
#                                             says "ready" when it greets; all that it writes is under DIR
#
# Their packages are unpacked with the libraries that they need into a tree of their own, and never installed: no script
# of theirs runs, nothing of the system's changes. A server runs in its tree by chroot, in namespaces of its own for mounts
# and processes. So it needs root, and when it ends, however it ends, the kernel ends all its processes and mounts.
#
#   user1 / pass1      user2, user3   awkward passwords (see below)      empty / empty      full / full
#
# Mail is what tests put there. Environment:
#   SERVER_EXTRA=      a file with more settings, read last: lines of imapd.conf for Cyrus, variables for Courier, lines of
#                      dovecot.conf for Dovecot
#   SERVER_CA=         a file that Dovecot's settings can name as /etc/extra-ca.pem
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
export LC_ALL=C

RECIPE=1 # counts up when what is put into a tree changes
TREES=$CACHE/servers
NOBODY=65534 # whose the mail is, and who the servers are once they have their ports

# What is asked for; the libraries come by themselves.
packages() {
  case $1 in
    cyrus) echo cyrus-imapd cyrus-common libsasl2-modules sasl2-bin tzdata ;;
    courier) echo courier-imap courier-base courier-authlib courier-authlib-userdb gamin ;;
    dovecot24) echo dovecot-core dovecot-imapd tzdata ;;
    *) die "unknown server: $1" ;;
  esac
}

# Where they come from: the system's sources, or those of a newer Debian with lists of their own.
apt=()
source_of() { # NAME
  apt=()
  [ "$1" = dovecot24 ] || return 0
  local lists=$TREES/trixie
  mkdir -p "$lists"/{lists,cache}/partial "$lists/cache/archives/partial"
  echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main' >"$lists/sources.list"
  apt=(-o "Dir::Etc::SourceList=$lists/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$lists/lists"
    -o "Dir::Cache=$lists/cache" -o Dir::State::Status=/dev/null -o APT::Sandbox::User=root)
}

# The first of them is the server.
candidate() { apt-cache "${apt[@]}" show --no-all-versions "$(packages "$1" | cut -d' ' -f1)" 2>/dev/null | sed -n 's/^Version: //p' || true; }

# These packages and all libraries under them, the C library too, so that nothing depends on what the system has. Programs
# that they depend on (perl, debconf, a mail transport agent) would only serve scripts that do not run here.
closure() {
  apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
    awk -v roots="$*" '
      /^[^ ]/ { package = $1; next }
      # Of alternatives, which "|" joins, the first.
      /Depends: / { if (!more && $NF ~ /^(lib|zlib)/) needs[package] = needs[package] " " $NF; more = /^ *\|/ }
      END {
        last = split(roots, queue)
        for (i = 1; i <= last; i++) seen[queue[i]]
        for (i = 1; i <= last; i++) {
          print queue[i]
          count = split(needs[queue[i]], found)
          for (j = 1; j <= count; j++) if (!(found[j] in seen)) { seen[found[j]]; queue[++last] = found[j] }
        }
      }'
}

fetch() { # NAME
  local -a all=()
  # shellcheck disable=SC2046 # words they are
  mapfile -t all < <(closure $(packages "$1"))
  [ ${#all[@]} -gt 10 ] && apt-get "${apt[@]}" -qq download "${all[@]}"
}

unpack() { # NAME TREE
  rm -rf "$2" && mkdir -p "$2/debs" && cd "$2/debs"
  if ! fetch "$1"; then # lists that are old, or none yet
    if [ "$(id -u)" = 0 ]; then apt-get "${apt[@]}" -qq update; else sudo apt-get "${apt[@]}" -qq update; fi
    fetch "$1"
  fi
  local deb
  for deb in *.deb; do dpkg-deb --extract "$deb" "$2"; done
  cd "$2"
  rm -rf debs usr/share/doc usr/share/man usr/share/locale
  mkdir -p dev etc run tmp var
  [ "$1" = dovecot24 ] || return 0
  mkdir -p proc
  # In this Debian everything is below usr, and another package has the links.
  local part
  for part in bin lib lib64 sbin; do [ -e "$part" ] || ln -s "usr/$part" "$part"; done
}

prepare() { # NAME
  local name=$1 tree now version begin=$SECONDS log
  source_of "$name"
  now=$(readlink "$TREES/$name" || true)
  version=$(candidate "$name")
  # Without lists of packages, which is no reason to fetch them, what is there will do.
  [ -n "$version" ] || [ ! -e "$TREES/$name" ] || return 0
  [ -n "$version" ] && [ "$now" = "$name-$version-$RECIPE" ] && [ -e "$TREES/$now" ] && return 0
  say "$name: not in the cache, unpacking it (once)"
  tree=$TREES/$name.new log=$TREES/$name.log
  set +e # bash takes no notice of -e inside a condition
  (set -e; unpack "$name" "$tree") >"$log" 2>&1 9>&-
  local result=$?
  set -e
  [ "$result" = 0 ] || { tail -n 20 "$log" >&2; die "$name could not be unpacked, see $log"; }
  version=$(candidate "$name")
  now=$name-$version-$RECIPE
  rm -rf "${TREES:?}/$now"
  mv "$tree" "$TREES/$now"
  ln -sfn "$now" "$TREES/$name"
  say "$name: $version ready after $((SECONDS - begin)) s"
}

greets() { # PORT
  local line=''
  { exec 8<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
  IFS= read -r -t 5 line <&8 || true
  exec 8>&-
  [[ $line == '* OK'* ]]
}
listens() { { exec 8<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null && exec 8>&-; }

run() { # NAME DIR PLAIN TLS
  [ "$(id -u)" = 0 ] || die "$1 runs in namespaces of its own, which needs root"
  [ -e "$TREES/$1/usr" ] || die "$1 is missing: run scripts/servers.sh prepare, which unpacks it, once"
  local dir
  dir=$(cd "$2" && pwd)
  "$ROOT/scripts/dovecot.sh" certificates "$dir/tls" localhost
  # Process 1 of the namespace is told to end with us; with it, all others end.
  exec unshare --mount --pid --fork --kill-child "$0" inside "$1" "$dir" "$3" "$4"
}

accounts=(user1:pass1 'user2:two words "quoted" back\slash 100% {5}' 'user3:pässwörd-日本' empty:empty full:full)

inside() { # NAME DIR PLAIN TLS
  local server # the process without which there is none
  local name=$1 dir=$2 plain=$3 tls=$4 tree root=$2/root part
  tree=$(cd "$TREES/$name/." && pwd -P)
  if listens "$plain" || listens "$tls"; then die "Address already in use: $plain or $tls"; fi
  mkdir -p "$root"
  mount --bind "$tree" "$root"
  mount -o remount,bind,ro "$root"
  for part in etc run tmp var; do
    mkdir -p "$dir/$part"
    mount --bind "$dir/$part" "$root/$part"
  done
  chmod 1777 "$dir/tmp"
  mount -t tmpfs -o mode=755 none "$root/dev"
  mknod -m 666 "$root/dev/null" c 1 3
  mknod -m 666 "$root/dev/zero" c 1 5
  mknod -m 666 "$root/dev/random" c 1 8
  mknod -m 666 "$root/dev/urandom" c 1 9
  printf 'root:x:0:0::/:/bin/false\n%s:x:%s:%s::/:/bin/false\n' "$name" $NOBODY $NOBODY >"$dir/etc/passwd"
  printf 'root:x:0:\n%s:x:%s:\nmail:x:%s:\n' "$name" $NOBODY $NOBODY >"$dir/etc/group"
  cat "$dir/tls/server.key" "$dir/tls/server.pem" >"$dir/etc/server.pem"
  chown $NOBODY "$dir/etc/server.pem"
  # The server must not hold the input whose end it is to end at, nor the output that we speak on.
  "$name" >"$dir/server.log" 2>&1 </dev/null
  for _ in {1..400}; do
    if greets "$plain" && listens "$tls"; then
      say ready
      cat >/dev/null
      return
    fi
    kill -0 "$server" 2>/dev/null || break
    sleep 0.05
  done
  tail -n 20 "$dir/server.log" >&2
  die "$name gave no greeting on port $plain"
}

cyrus() {
  mkdir -p "$dir"/var/lib/cyrus/{db,socket} "$dir/var/spool/cyrus" "$dir"/run/cyrus/{socket,proc,lock}
  local account
  for account in "${accounts[@]}"; do
    printf %s "${account#*:}" | chroot "$root" /usr/sbin/saslpasswd2 -p -c -f /etc/sasldb2 -u localhost "${account%%:*}"
  done
  # It tells what it does to syslog alone.
  perl -MIO::Socket::UNIX -e '
    my $log = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => shift) or die $!;
    $| = 1;
    while (defined $log->recv(my $line, 8192)) { print "$line\n" }' "$root/dev/log" &
  for _ in {1..100}; do [ ! -S "$root/dev/log" ] || break; sleep 0.05; done
  chmod 666 "$root/dev/log"
  # As in Debian's, names are under INBOX and dots part them.
  cat >"$dir/etc/imapd.conf" <<END
configdirectory: /var/lib/cyrus
proc_path: /run/cyrus/proc
mboxname_lockpath: /run/cyrus/lock
idlesocket: /run/cyrus/socket/idle
defaultpartition: default
partition-default: /var/spool/cyrus
servername: localhost
altnamespace: no
unixhierarchysep: no
autocreate_quota: 0
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: /etc/sasldb2
tls_server_cert: /etc/server.pem
tls_server_key: /etc/server.pem
END
  [ -z "${SERVER_EXTRA:-}" ] || cat "$SERVER_EXTRA" >>"$dir/etc/imapd.conf"
  # No key may stand there twice.
  grep -q '^allowplaintext:' "$dir/etc/imapd.conf" || echo 'allowplaintext: yes' >>"$dir/etc/imapd.conf"
  cat >"$dir/etc/cyrus.conf" <<END
START {
  recover cmd="/usr/lib/cyrus/bin/ctl_cyrusdb -r"
}
SERVICES {
  imap cmd="imapd" listen="127.0.0.1:$plain" maxchild=100
  imaps cmd="imapd -s" listen="127.0.0.1:$tls" maxchild=100
}
EVENTS {
}
DAEMON {
  idled cmd="/usr/lib/cyrus/bin/idled"
}
END
  chown -R $NOBODY:$NOBODY "$dir/var" "$dir/run" "$dir/etc/sasldb2"
  chroot "$root" /usr/lib/cyrus/bin/master -D -C /etc/imapd.conf -M /etc/cyrus.conf -p /run/master.pid &
  server=$!
}

courier() {
  mkdir -p "$dir/etc/courier" "$dir/run/courier/authdaemon" "$dir/var/mail" "$dir/var/lib/courier"
  printf 'authmodulelist="authuserdb"\ndaemons=3\nauthdaemonvar=/run/courier/authdaemon\n' >"$dir/etc/courier/authdaemonrc"
  local account user crypted users='' shadow=''
  for account in "${accounts[@]}"; do
    user=${account%%:*}
    crypted=$(openssl passwd -6 -stdin <<<"${account#*:}")
    users+="$user"$'\t'"home=/var/mail/$user|uid=$NOBODY|gid=$NOBODY"$'\n'
    shadow+="$user"$'\t'"systempw=$crypted"$'\n'
    mkdir "$dir/var/mail/$user"
    chroot "$root" /usr/bin/maildirmake.courier "/var/mail/$user/Maildir"
  done
  local makedat=(chroot "$root" /usr/lib/courier/courier-authlib/makedatprog -)
  (umask 077; printf %s "$users" >"$dir/etc/courier/userdb")
  printf '%s.\n' "$users" | "${makedat[@]}" /etc/courier/userdb.tmp /etc/courier/userdb.dat
  (umask 077; printf '%s.\n' "$shadow" | "${makedat[@]}" /etc/courier/shadow.tmp /etc/courier/userdbshadow.dat)
  touch "$dir/var/lib/courier/couriersslcache"
  chown -R $NOBODY:$NOBODY "$dir/var"
  chroot "$root" /usr/lib/courier/courier-authlib/authdaemond &

  # Debian's settings, which its start script hands over in the environment, and all mechanisms that it could offer.
  cat >"$dir/etc/courier/settings" <<END
. "$tree/etc/courier/imapd"
. "$tree/etc/courier/imapd-ssl"
IMAP_CAPABILITY="\$IMAP_CAPABILITY_ORIG"
IMAP_CAPABILITY_TLS="\$IMAP_CAPABILITY_TLS_ORIG"
IMAP_STARTTLS=YES
TLS_CERTFILE=/etc/server.pem
TLS_CACHEFILE=/var/lib/courier/couriersslcache
END
  [ -z "${SERVER_EXTRA:-}" ] || cat "$SERVER_EXTRA" >>"$dir/etc/courier/settings"
  set +u -a
  # shellcheck source=/dev/null
  . "$dir/etc/courier/settings"
  set -u +a
  local listen=(chroot "$root" /usr/sbin/couriertcpd -address=127.0.0.1 -maxprocs=100 -maxperip=100 -nodnslookup -noidentlookup)
  local imap=(/usr/lib/courier/courier/imaplogin /usr/bin/imapd Maildir)
  "${listen[@]}" "$plain" "${imap[@]}" &
  server=$!
  IMAP_TLS=1 "${listen[@]}" "$tls" /usr/bin/couriertls -server -tcpd -user=courier "${imap[@]}" &
}

dovecot24() {
  mkdir -p "$dir/etc/dovecot" "$dir/var/mail" "$dir/run/dovecot" "$dir/var/lib/dovecot"
  mount -t proc proc "$root/proc"
  printf '%s:x:%s:%s::/:/bin/false\n' dovecot 102 102 dovenull 103 103 vmail $NOBODY $NOBODY >>"$dir/etc/passwd"
  printf '%s:x:%s:\n' dovecot 102 dovenull 103 vmail $NOBODY >>"$dir/etc/group"
  printf '127.0.0.1 localhost\n' >"$dir/etc/hosts"
  [ -z "${SERVER_CA:-}" ] || install -m 644 "$SERVER_CA" "$dir/etc/extra-ca.pem"
  local account user
  for account in "${accounts[@]}"; do
    user=${account%%:*}
    # base64: a colon would end the field
    printf '%s:{PLAIN.b64}%s\n' "$user" "$(printf %s "${account#*:}" | base64 -w0)"
    mkdir -p "$dir/var/mail/$user"
  done >"$dir/etc/users"
  chmod 644 "$dir/etc/users"
  chown -R $NOBODY:$NOBODY "$dir/var/mail"
  cat >"$dir/etc/dovecot/dovecot.conf" <<END
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
protocols = imap
listen = 127.0.0.1
log_path = /dev/stderr
first_valid_uid = 1
mail_uid = vmail
mail_gid = vmail
mail_driver = maildir
mail_home = /var/mail/%{user}
mail_path = ~/Maildir
namespace inbox {
  inbox = yes
  separator = /
}
ssl_server_cert_file = /etc/server.pem
ssl_server_key_file = /etc/server.pem
auth_mechanisms = plain login
auth_allow_cleartext = yes
passdb passwd-file {
  passwd_file_path = /etc/users
}
userdb static {
}
service imap-login {
  inet_listener imap {
    port = $plain
  }
  inet_listener imaps {
    port = $tls
    ssl = yes
  }
}
END
  [ -z "${SERVER_EXTRA:-}" ] || cat "$SERVER_EXTRA" >>"$dir/etc/dovecot/dovecot.conf"
  chroot "$root" /usr/sbin/dovecot -F &
  server=$!
}

case ${1:-}:$# in
  prepare:[1-4])
    shift
    [ $# -gt 0 ] || set -- cyrus courier dovecot24
    lock servers
    mkdir -p "$TREES"
    for name; do prepare "$name"; done
    ;;
  run:5) packages "$2" >/dev/null; run "$2" "$3" "$4" "$5" ;;
  inside:5) inside "$2" "$3" "$4" "$5" ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" | sed '/shellcheck/,$d' >&2; exit 2 ;;
esac
