#!/bin/bash
# api_test.sh COFFER SERVER_UP: what the API does beyond the script of commands: tokens, audit, plan and history, work
# that is told step by step and done once, waiting, revocation, and the way to the key service for hosts elsewhere.
# Needs root, to be several users.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || exit 77
export COFFER_BIN=$(dirname "$(realpath "$1")")
begin "$1"
server_up=$2 dir=$WORK/server
export COFFER_HOME=$dir/user
chmod 755 "$WORK"
at_end() { "$server_up" stop "$dir" || true; }
nap=$((1000000 + RANDOM * 32768 + RANDOM)) # nobody else sleeps as long
api() { # METHOD PATH [CURL-OPTION...]: the status is printed, the answer is in $OUTPUTS/out
  curl -sS -N --unix-socket "$dir/run/api/api.sock" -o "$OUTPUTS/out" -w '%{http_code}' -X "$1" "http://api$2" \
    -H "Authorization: Bearer ${token-$all}" "${@:3}" 2>"$OUTPUTS/err"
}
json_body=(-H 'Content-Type: application/json' --data-binary @-)
with() { COFFER_TOKEN=$1 "${@:2}"; }
machine() { field ".[] | select(.name == \"$1\") | .$2" machine list -a web; }

step "set up"
ok "$server_up" start "$dir"
all=$(cat "$dir/user/user.token")
ok coffer apps create web
ok coffer apps create other
value=$(canary)
ok coffer secrets set -a web --stage VALUE="$value" OLD=1
ok coffer machine run -a web --name one host -- sleep "$nap"
says "started"

step "a token makes tokens that may no more than itself, and they end when they are revoked"
ok coffer token create --name maker --allow token,list --app web,other
maker=$(cat "$OUTPUTS/out")
expect_code 5 with "$maker" coffer token create --name wide --allow token,list
ok coffer token create --name reader --allow list,audit --app web
reader=$(cat "$OUTPUTS/out")
ok with "$reader" coffer token check
says "Apps web; allows list,audit"
ok with "$reader" coffer secrets list -a web
expect_code 5 with "$reader" coffer token list
ok coffer token list -j
json 'map(.name) | sort == ["maker", "reader", "server-up"]'
# It is kept nowhere; the one that the user keeps is found.
grep -raqF -e "${all#coffer_}" "$dir" || failed "the search finds nothing"
expect_code 1 grep -raqF -e "${reader#coffer_}" "$dir"

step "the audit log of the API is read through it, of the Apps that the token may see"
ok coffer secrets set -a other --stage X=1
ok coffer audit log -j
json 'map(select(.action == "set") | .app) | unique == ["other", "web"]'
ok with "$reader" coffer audit log -j
json 'length > 0 and all(.app == "web")'
ok coffer audit log -a other -n 1 -j
json 'length == 1 and .[0].app == "other"'
expect_code 4 coffer audit verify

step "what a deploy would do, and what was done"
ok coffer secrets set -a web --stage VALUE="$value"2 NEW=1
ok coffer secrets unset -a web --stage OLD
ok coffer secrets plan -a web -j
json '[.secrets[] | .change + " " + .name] == ["add NEW", "remove OLD", "change VALUE"] and (.machines | length) == 1'
ok coffer secrets deploy -a web
says ": started"
ok coffer secrets plan -a web
says "Nothing to deploy"
ok coffer secrets history -a web OLD -j
json 'map([.set, .removed | index("OLD") != null]) == [[false, true], [true, false]]'

step "long work is told step by step"
same 200 "$(api POST /v1/apps/web/deploy -H 'Accept: application/x-ndjson' "${json_body[@]}" <<<'{"force": true}')"
jq -se 'map(.step // empty) | index("opening secrets") and index("started")' "$OUTPUTS/out" >/dev/null || failed "steps are missing"
jq -se 'last | .status == 200 and .result.machines[0].result == "started"' "$OUTPUTS/out" >/dev/null || failed "no result"
same 200 "$(api POST /v1/apps/web/machines/absent/start -H 'Accept: application/x-ndjson')"
jq -se 'last | .code == "not_found"' "$OUTPUTS/out" >/dev/null || failed "no error at the end"

step "the same key, the same request: once"
run='{"name": "twice", "config": {"image": "host", "init": {"cmd": ["sleep", "'$nap'"]}}}'
once=(-H "Idempotency-Key: run-1" "${json_body[@]}")
same 201 "$(api POST /v1/apps/web/machines "${once[@]}" <<<"$run")"
first=$(jq -r .machine.id "$OUTPUTS/out")
same 201 "$(api POST /v1/apps/web/machines "${once[@]}" <<<"$run")"
same "$first" "$(jq -r .machine.id "$OUTPUTS/out")"
same 400 "$(api POST /v1/apps/web/machines "${once[@]}" <<<"${run/twice/thrice}")"
same 409 "$(api POST /v1/apps/web/machines "${json_body[@]}" <<<"$run")"
# What failed may be tried again.
same 404 "$(api POST /v1/apps/web/machines/later/stop -H 'Idempotency-Key: stop-1')"
ok coffer machine run -a web --name later host -- sleep "$nap"
same 200 "$(api POST /v1/apps/web/machines/later/stop -H 'Idempotency-Key: stop-1')"
same 400 "$(api POST /v1/apps/web/deploy -H 'Idempotency-Key;' "${json_body[@]}" <<<'{}')"
ok coffer machine destroy -a web later --force

step "an API that is killed while a Machine is made: the command goes on, and there is one"
before=$(field length machine list -a web)
for i in 1 2 3 4 5; do
  coffer machine run -a web host -- sleep "$nap" >made 2>&1 & # without a name: a second one would not be refused
  made=$!
  sleep "0.0$((RANDOM % 9))$((RANDOM % 9))" # somewhere in it
  "$server_up" stop "$dir" api KILL
  ok "$server_up" start "$dir"
  # Killed before it was asked, it is not there; later the command goes on.
  wait "$made" || grep -q "does not answer\|nobody\|ended" made || failed "it ended with $?: $(cat made)"
  known=$(field length machine list -a web)
  [ "$known" -le $((before + i)) ] || failed "$known Machines after $i commands"
  same "$known" "$(field 'map(select(.state == "started")) | length' machine list -a web)" "Machines that run"
done

step "who waits hears of a change at once"
coffer machine wait -a web twice --state stopped --timeout 60 >waited 2>&1 &
waiter=$!
begun=$SECONDS
ok coffer machine stop -a web twice
wait "$waiter" || failed "the wait ended with $?"
[ $((SECONDS - begun)) -lt 8 ] || failed "it looked, and did not hear"
ok coffer machine destroy -a web twice

step "coffer run takes a token with the word, and a user whom the host lets have values"
value=$(canary)
ok coffer secrets set -a web --stage VALUE="$value"
ok coffer run -a web --only VALUE -- sh -c 'printf %s "$VALUE"; test -z "${OLD+x}"'
same "$value" "$(out)"
ok coffer token create --name all-but-run --allow list,set,deploy,machine,exec,keys,token,audit,admin
expect_code 5 with "$(cat "$OUTPUTS/out")" coffer run -a web -- true
says '`run`'
cp -a "$dir/user" "$WORK/guest"
chown -R 64209:64209 "$WORK/guest"
guest=(setpriv --reuid=64209 --regid=64209 --clear-groups env COFFER_HOME="$WORK/guest" coffer run -a web -- printenv VALUE)
expect_code 5 "${guest[@]}"
says 'no values to commands of this user'
ok "$server_up" stop "$dir" agent
sed -i 's/^socket = .*agent.sock"/&\nusers = ["64209"]/' "$dir/agent/engine.toml"
ok "$server_up" start "$dir"
ok "${guest[@]}"
same "$value" "$(out)"
rm -rf "$WORK/guest"
# Each is in the log, and nothing of them is left.
ok coffer audit log -a web -j
json 'map(select(.action == "run" and .outcome == "ok")) | length == 2'
ok coffer machine list -a web -j
json 'all(.[]; .name | startswith("run-") | not)'

step "a revoked token ends what it began"
ok coffer token create --name streams --allow exec,list
streams=$(cat "$OUTPUTS/out")
with "$streams" coffer machine exec -a web one -- sleep "$((nap + 1))" </dev/null >/dev/null 2>&1 &
exec=$!
eventually 10 pgrep -xf "sleep $((nap + 1))" >/dev/null
ok coffer token revoke streams
! wait "$exec" || failed "the command goes on"
expect_code 5 with "$streams" coffer apps list

step "a host that cannot reach the key service asks through the API, where that is allowed"
ok "$server_up" stop "$dir"
sed -i '/^\[keys\]/,/^$/d' "$dir/agent/engine.toml"
expect_code 1 grep -q "keys.sock" "$dir/agent/engine.toml"
ok "$server_up" start "$dir"
expect_code 6 coffer machine restart -a web one
says "relay_keys"
ok "$server_up" stop "$dir"
echo 'relay_keys = true' >>"$dir/api/engine.toml"
sed -i 's/^agents = .*/agents = ["64202", "64203"]/' "$dir/keys/engine.toml"
ok "$server_up" start "$dir"
value=$(canary)
ok coffer secrets set -a web VALUE="$value"
same "$value" "$(coffer machine exec -a web one -- sh -c 'printf %s "$VALUE"' </dev/null 2>/dev/null)"
# What passes is sealed: the API neither keeps nor logs it.
nowhere "$value" "$dir"
ok coffer apps destroy web -y
ok "$server_up" stop "$dir"
