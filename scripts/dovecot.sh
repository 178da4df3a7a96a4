#!/usr/bin/env bash
# A Dovecot 2.3 of one's own, on loopback, with users and mail to look at. All of it lives under DIR.
#
#   dovecot.sh prepare DIR HOST...     certificates for the HOSTs, users, mail
#   dovecot.sh start DIR PLAIN TLS     the same, and a server on these two ports; returns when it greets
#   dovecot.sh stop DIR
#   dovecot.sh certificates DIR HOST...   certificates alone, for other servers
#
#   user1 / pass1     folders with awkward names          big / big       10,000 messages, made once and then copied
#   user2, user3      awkward passwords (see below)       empty / empty   none
#
# Environment:
#   DOVECOT_MESSAGES=200   in the INBOX of user1 to user3
#   DOVECOT_BIG=0          1: make (or take from the cache) the mailbox of `big`; else it is empty
#   DOVECOT_LOAD_USERS=0   so many more users load1, load2, … with password "load" and 25 messages each
#   DOVECOT_EXTRA=         a file with more settings, included last
#   DOVECOT_OWNER=         whose the mail is: nobody:nogroup when run by root, else the caller
#
# After a wrong password Dovecot holds back the next logins from the same address, right ones too (4, 8, 15 s): tests of
# wrong passwords need a server of their own.
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
PATH=$PATH:/usr/sbin:/sbin

messages=${DOVECOT_MESSAGES:-200}
owner=${DOVECOT_OWNER:-}
[ -n "$owner" ] || [ "$(id -u)" != 0 ] || owner=nobody:nogroup

certificates() { # DIR HOST...
  local dir=$1 names='' host
  shift
  for host; do names+=,DNS:$host; done
  [ "$(cat "$dir/names" 2>/dev/null)" != "$names" ] || return 0
  mkdir -p "$dir"
  local ec=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
  openssl req -x509 "${ec[@]}" -days 3650 -subj '/CN=imaptrace test CA' -addext keyUsage=critical,keyCertSign \
    -keyout "$dir/ca.key" -out "$dir/ca.pem" 2>/dev/null
  openssl req "${ec[@]}" -subj "/CN=$1" -keyout "$dir/server.key" -out "$dir/server.csr" 2>/dev/null
  openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 3650 \
    -extfile <(echo "subjectAltName=IP:127.0.0.1$names") -out "$dir/server.pem" 2>/dev/null
  chmod 644 "$dir/ca.pem"
  printf %s "$names" >"$dir/names"
}

user() { printf '%s:{PLAIN.b64}%s\n' "$1" "$(printf %s "$2" | base64 -w0)"; } # base64: a colon would end the field
users() {
  user user1 pass1
  user user2 'two words "quoted" back\slash 100% {5}'
  user user3 'pässwörd-日本'
  user big big
  user empty empty
  local n
  for ((n = 1; n <= ${DOVECOT_LOAD_USERS:-0}; n++)); do user "load$n" load; done
}

inbox() { # DIR COUNT NAME
  mkdir -p "$1/$3"
  "$ROOT/scripts/mailbox.pl" "$1/$3/Maildir" "$2" "$3"
}

folders=(.Archive .Archive.2025 .Archive.2025.Q4 .Sent '.Entw&APw-rfe' '.&ZeVnLIqe-' '.Nowhere.R&AOk-sum&AOk-' '.&2D3eAA-'
  '.two words' '.a"quote' '.back\slash' '.100% full' '.this &- that' '.(round) {5}')
mail() { # DIR
  local dir=$1 name n folder
  mkdir -p "$dir"
  for name in user1 user2 user3; do inbox "$dir" "$messages" "$name"; done
  # .Nowhere itself is not made: LIST shows it as \Noselect or \NonExistent
  for folder in "${folders[@]}"; do
    "$ROOT/scripts/mailbox.pl" "$dir/user1/Maildir/$folder" 3 user1
    printf '%s\n' "${folder#.}"
  done | sort >"$dir/user1/Maildir/subscriptions"
  inbox "$dir" 0 empty
  for ((n = 1; n <= ${DOVECOT_LOAD_USERS:-0}; n++)); do inbox "$dir" 25 "load$n"; done
  if [ "${DOVECOT_BIG:-0}" = 0 ]; then
    inbox "$dir" 0 big
  else
    lock mail
    inbox "$CACHE/mail" 10000 big
    exec 9>&-
    # A copy: the cache may lie in a home that Dovecot's user cannot enter, and what Dovecot writes beside the mail
    # would be another server's business.
    rm -rf "$dir/big"
    cp -a --reflink=auto "$CACHE/mail/big" "$dir/big"
  fi
  [ -z "$owner" ] || chown -R "$owner" "$dir"
}

prepare() { # DIR HOST...
  local dir=$1
  shift
  mkdir -p "$dir"
  chmod 755 "$dir"
  certificates "$dir/tls" "$@"
  users >"$dir/passwd"
  chmod 644 "$dir/passwd"
  mail "$dir/mail"
}

# This machine's half of the configuration.
config() { # DIR PLAIN TLS
  local user group=nogroup
  cat <<END
!include $ROOT/deploy/dovecot/common.conf
base_dir = $1/run
state_dir = $1/state
log_path = $1/dovecot.log
instance_name = imaptrace-$2
listen = 127.0.0.1
ssl_cert = <$1/tls/server.pem
ssl_key = <$1/tls/server.key
passdb {
  driver = passwd-file
  args = username_format=%u $1/passwd
}
userdb {
  driver = static
  args = home=$1/mail/%u
}
service imap-login {
  inet_listener imap {
    port = $2
  }
  inet_listener imaps {
    port = $3
    ssl = yes
  }
}
END
  if [ "$(id -u)" = 0 ]; then
    printf 'mail_uid = %s\nmail_gid = %s\n' "${owner%:*}" "${owner#*:}"
  else # one user for all, and no chroot, which needs root
    user=$(id -un) group=$(id -gn)
    cat <<END
default_internal_user = $user
default_internal_group = $group
default_login_user = $user
mail_uid = $user
mail_gid = $group
service imap-login {
  chroot =
}
service anvil {
  chroot =
}
END
  fi
  [ -z "${DOVECOT_EXTRA:-}" ] || printf '!include %s\n' "$DOVECOT_EXTRA"
}

start() { # DIR PLAIN TLS
  command -v dovecot >/dev/null || die "dovecot is missing: apt-get install dovecot-imapd (or run scripts/need.sh stack)"
  local dir greeting
  mkdir -p "$1"
  dir=$(cd "$1" && pwd)
  [ ${#dir} -le 70 ] || die "$dir is too long a path for Dovecot's sockets: 70 characters at most"
  stop "$dir"
  mkdir -p "$dir/state"
  prepare "$dir" localhost
  config "$dir" "$2" "$3" >"$dir/dovecot.conf"
  ulimit -n "$(ulimit -Hn)"
  dovecot -c "$dir/dovecot.conf" 2>"$dir/start.log" || { cat "$dir/start.log" >&2; die "dovecot did not start"; }
  for _ in {1..200}; do
    if { exec 8<>"/dev/tcp/127.0.0.1/$2"; } 2>/dev/null; then
      IFS= read -r -t 5 greeting <&8 || true
      exec 8>&-
      [[ ${greeting:-} != '* OK'* ]] || return 0
    fi
    sleep 0.05
  done
  tail -n 5 "$dir/dovecot.log" >&2
  stop "$dir"
  die "dovecot gave no greeting on port $2"
}

stop() { # DIR
  local pid
  pid=$(cat "$1/run/master.pid" 2>/dev/null) || return 0
  # The number may be another process's by now; ours was told DIR on its command line.
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "-c $1/dovecot.conf" || return 0
  kill "$pid"
  for _ in {1..200}; do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.05
  done
  die "dovecot (process $pid) does not end"
}

case ${1:-}:$# in
  prepare:[3-9]) shift; prepare "$@" ;;
  certificates:[3-9]) shift; certificates "$@" ;;
  start:4) start "$2" "$3" "$4" ;;
  stop:2) stop "$(cd "$2" 2>/dev/null && pwd || echo "$2")" ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' "$0" | sed '/shellcheck/,$d' >&2; exit 2 ;;
esac
