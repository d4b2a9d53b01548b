#!/bin/bash
# key_service_test.sh COFFER COFFER_KEYS UNIT: the key service under a user of its own.  Needs root, to be two users.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || exit 77
keys=$(realpath "$2") unit=$(realpath "$3")
begin "$1"
service=64101 user=64102

chmod 755 "$WORK"
export KEYS_HOME=$WORK/keys HOME=$WORK/user
mkdir "$WORK/run" "$KEYS_HOME" "$COFFER_HOME"
chown $service "$WORK/run" "$KEYS_HOME"
chown -R $user "$COFFER_HOME" "$HOME"
chmod 700 "$KEYS_HOME" "$COFFER_HOME"
chown -R $user "$OUTPUTS"
socket=$WORK/run/keys.sock
cat >"$KEYS_HOME/engine.toml" <<END
[keys]
socket = "$socket"
api = ["$user"]
agents = ["$user"]
[kms]
plugin = "kms-local"
path = "kms"
END
service_is=(setpriv --reuid=$service --regid=$service --clear-groups env "COFFER_HOME=$KEYS_HOME")
as_service() { "${service_is[@]}" "$@"; }
as_user() { setpriv --reuid=$user --regid=$user --clear-groups "$@"; }
# What lib.sh destroys at the end is the user's.
coffer() { as_user "$WORK/bin/coffer" "$@"; }

keys_pid=
start_keys() {
  "${service_is[@]}" "$keys" >>"$WORK/keys.out" 2>>"$WORK/keys.err" &
  keys_pid=$!
  eventually 20 grep -qs "listens at" "$WORK/keys.err"
}
stop_keys() { # SIGNAL
  kill -s "$1" "$keys_pid"
  code=0
  wait "$keys_pid" || code=$?
  : >"$WORK/keys.err"
}
at_end() { [ -z "$keys_pid" ] || kill -KILL "$keys_pid" 2>/dev/null || true; }

step "each side makes its own keys, and pins the other's public ones"
ok as_service "$keys" --init
identity=$(out)
[[ $identity =~ ^[0-9a-f]{64}$ ]] || failed "no identity"
ok as_service "$keys" --init
same "$identity" "$(out)"
expect_code 7 coffer init --keys "$socket"
expect_code 7 coffer init --keys "$socket" --identity abc
ok coffer init --keys "$socket" --identity "$identity"
no_smoke
says "coffer host enroll"
[ ! -e "$COFFER_HOME/kms" ] && [ ! -e "$COFFER_HOME/keys.db" ] || failed "the user has keys of his own"
expect_code 4 as_service "$keys"
says "pins/writers"
install -o $service -m 444 "$COFFER_HOME/pins/writers" "$KEYS_HOME/pins/writers"
expect_code 6 coffer apps create web
says "key service"
start_keys

step "a host is admitted by the administrator, by nobody else"
ok coffer apps create web
ok coffer secrets set -a web --stage A="one two" B=-  </dev/null
expect_code 5 coffer machine run -a web --name one host -- sleep 1000000
says "not enrolled"
json_machines() { coffer machine list -a web -j | jq length; }
same 0 "$(json_machines)"
expect_code 5 coffer host enroll alpha
ok coffer host list -j # which ones there are, an API may know
json ". == []"
ok as_service "$WORK/bin/coffer" host enroll alpha -q
cp "$OUTPUTS/out" token
[[ $(cat token) =~ ^[0-9a-f]{32}$ ]] || failed "no token"
expect_code 7 coffer host join alpha <<<"no token"
expect_code 5 coffer host join alpha <<<"$(tr '0-9' 'a' <token)"
ok coffer host join alpha <token
ok as_service "$WORK/bin/coffer" host list -j
json '.[0].name == "alpha" and .[0].state == "enrolled"'
expect_code 4 coffer host join beta <token

step "Machines boot with what the key service opened"
ok coffer machine run -a web --name one host -- sleep 1000000
ok coffer machine exec -a web one -- sh -c 'printf %s "$A"'
same "one two" "$(out)"
ok coffer secrets set -a web A=second
ok coffer machine exec -a web one -- sh -c 'printf %s "$A"'
same second "$(out)"
ok coffer doctor
says "$socket"
ok coffer vault check
ok coffer keys list
says web

step "the user reads nothing of the service, and the service nothing of the vault"
expect_code 1 as_user sh -c 'cat "$KEYS_HOME"/keys.db'
expect_code 1 as_user sh -c 'cat "$KEYS_HOME"/kms/*'
expect_code 1 as_service sh -c "cat $COFFER_HOME/vault.db"
expect_code 1 as_user sh -c "cat /proc/$keys_pid/environ"

step "killed at any time: what runs goes on, what was acknowledged stays"
stop_keys KILL
ok coffer machine exec -a web one -- sh -c 'printf %s "$A"'
same second "$(out)"
expect_code 6 coffer machine restart -a web one
says "key service"
ok coffer machine exec -a web one -- sh -c 'printf %s "$A"'
same second "$(out)"
start_keys
ok coffer machine restart -a web one
ok coffer machine run -a web --name two host -- sleep 1000000
for i in 1 2 3; do
  coffer machine restart -a web two >/dev/null 2>&1 &
  restart=$!
  sleep 0.0$((i * 2))
  stop_keys KILL
  wait "$restart" || true
  start_keys
  ok coffer secrets set -a web A="round $i"
  for m in one two; do
    ok coffer machine exec -a web $m -- sh -c 'printf %s "$A"'
    same "round $i" "$(out)"
  done
  same "2 2" "$(field '"\(length) \(map(select(.state == "started")) | length)"' machine list -a web)"
done

step "a revoked host opens nothing any more, and its Machines go on"
ok as_service "$WORK/bin/coffer" host revoke alpha
expect_code 5 coffer machine restart -a web one
says revoked
ok coffer machine exec -a web one -- sh -c 'printf %s "$A"'
same "round 3" "$(out)"
expect_code 5 coffer machine run -a web --name three host -- sleep 1000000
ok coffer machine destroy -a web one --force
ok coffer machine destroy -a web two --force

step "it ends when it is told to, and leaves no socket"
stop_keys TERM
same 0 "$code"
[ ! -e "$socket" ] || failed "the socket is still there"
keys_pid=

step "an API that would be administrator is refused"
sed -i "s/^api = .*/api = [\"$service\"]/" "$KEYS_HOME/engine.toml"
expect_code 7 as_service "$keys"
says "enrol hosts"
sed -i 's/^api = .*/api = ["nobody-of-this-name"]/' "$KEYS_HOME/engine.toml"
expect_code 3 as_service "$keys"

step "its unit is hardened"
if command -v systemd-analyze >/dev/null; then
  cp "$unit" coffer-keys.service
  ok systemd-analyze security --offline=yes --threshold=6 ./coffer-keys.service
  if grep -q ^PrivateUsers= coffer-keys.service; then failed "PrivateUsers hides who calls"; fi
  # The control: without its sandbox it is not.
  grep -v '^Private\|^Protect\|^SystemCall' "$unit" >weak.service
  expect_code 1 systemd-analyze security --offline=yes --threshold=6 ./weak.service
else
  echo "(no systemd-analyze here: not looked at)"
fi
