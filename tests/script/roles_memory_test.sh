#!/bin/bash
# roles_memory_test.sh COFFER SERVER_UP KEY_SCAN [SECRETS]: what the processes of server mode have in memory and what
# they never have, after SECRETS secrets were set.  The images are taken while the key service opens, which is when most
# of them are at work.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin_server "$1" "$2"
key_scan=$3 secrets=${4:-10000}
value=$(canary)

step "$secrets secrets are imported, 50 are set one by one, and a Machine has them all"
up
ok coffer apps create web
for ((from = 1; from <= secrets; from += 1000)); do
  ok coffer secrets import -a web --stage < <(printf "N%d=$value\n" $(seq $from $((from + 999))))
done
for i in $(seq 50); do ok coffer secrets set -a web --stage VALUE="$value.$i"; done
ok coffer machine run -a web --name one host -- sleep 1000000
ok coffer secrets set -a web SMALL=1
# What a command is given and prints there passes through the API.
inside() { coffer machine exec -a web one -- sh -c 'cat; echo "$VALUE $N1000 $SMALL"' <<<"$value.in" 2>/dev/null; }
expected="$value.in
$value.50 $value 1"
same "$expected" "$(inside)"
[ "$(field length secrets list -a web)" -gt "$secrets" ] || failed "secrets are missing"

step "no daemon leaves a core file, and nobody of its own user looks into it"
setpriv --reuid=$api_user --regid=$api_user --clear-groups sleep 1000000 &
sleeper=$!
eventually 10 grep -qx sleep "/proc/$sleeper/comm"
same $api_user "$(stat -c %u "/proc/$sleeper/environ")" "the control: what may be dumped is its user's"
kill "$sleeper"
for role in keys api agent; do
  same 0 "$(stat -c %u "/proc/$(daemon $role)/environ")" "owner of coffer-$role's /proc files"
  grep -q '^Max core file size  *1  *1 ' "/proc/$(daemon $role)/limits" || failed "coffer-$role could leave a core file"
done

step "images of all three are taken while the key service opens"
# Another process writes to its store, so it waits there with what it has opened.
coproc sqlite3 { as $keys_user sqlite3 "$dir/keys/keys.db"; }
exec {say}>&"${sqlite3[1]}"
echo "BEGIN IMMEDIATE; SELECT 'locked';" >&"$say"
read -r locked <&"${sqlite3[0]}"
same locked "$locked"
coffer machine restart -a web one >"$OUTPUTS/restart" 2>&1 &
restart=$!
image() { memory "$(daemon "$1")" >"$1.image"; }
holds() { grep -qaF -f <(forms "$value") "$1.image"; }
opening() { image keys && holds keys; }
eventually 20 opening
for role in keys api agent; do image $role; done
printf 'ROLLBACK;\n.quit\n' >&"$say"
exec {say}>&-
wait "$restart" || failed "the Machine was not booted"
same "$expected" "$(inside)"

# found IMAGE KEY...: names of the keys that are in it.
found() {
  local image=$1 code=0
  shift
  "$key_scan" -j 2 "$image.image" "$@" >"$OUTPUTS/out" 2>"$OUTPUTS/err" || code=$?
  [ "$code" -lt 2 ] || failed "the scan ended with $code"
  echo "   $image: $(err)" >&2
  out | cut -d' ' -f1 | sort | xargs
}

step "the key service has the values then, the App's private key and its own: the control"
holds keys || failed "no value"
as_keys() { as $keys_user env COFFER_HOME="$dir/keys" coffer "$@"; }
app=x25519:app:$(as_keys keys list -j | jq -r '.[] | select(.app == "web") | .public_key')
identity=ed25519:identity:$(cat "$dir/user/pins/identity")
same "app identity" "$(found keys "$app" "$identity")" "in coffer-keys"
# Now that they are known, they are looked for at every byte.
private=()
while read -r name at; do
  dd if=keys.image of="$name.private" bs=1 skip="$at" count=32 status=none
  private+=("file:$name:$WORK/$name.private")
done <"$OUTPUTS/out"
roles=("file:writer:$dir/api/api/writer.key" "file:host:$dir/agent/host/host.key")
same "app identity" "$(found keys "${private[@]}" "${roles[@]}")" "in coffer-keys"

step "the API has no value and of all keys its own"
if holds api; then failed "a value"; fi
planted=$("$key_scan" --plant api.image)
same "planted writer" "$(found api "$app" "$planted" "${private[@]}" "${roles[@]}")" "in coffer-api"

step "the agent has no value while it waits, and of all keys its own"
if holds agent; then failed "a value"; fi
same host "$(found agent "${private[@]}" "${roles[@]}")" "in coffer-agent"

step "the key service forgets what it has opened, and the App's private key"
image keys
if holds keys; then failed "a value"; fi
same identity "$(found keys "${private[@]}")" "in coffer-keys"
ok coffer machine destroy -a web one --force
