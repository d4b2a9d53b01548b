#!/bin/bash
# server_test.sh COFFER SERVER_UP UNIT [ROUNDS]: server mode keeps what it promises while its parts end, one by one and killed.
# Needs root, to be several users.  ROUNDS: boots in which each daemon is killed.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
unit=$(realpath "$3") rounds=${4:-4}
begin_server "$1" "$2"
nap=$((1000000 + RANDOM * 32768 + RANDOM)) # nobody else sleeps as long
inside() { coffer machine exec -a web "$1" -- sh -c "printf %s \"\$$2\"" </dev/null 2>/dev/null; }
machine() { field ".[] | select(.name == \"$1\") | .$2" machine list -a web; }
is() { [ "$(machine "$1" "$2")" = "$3" ]; }

step "the API links nothing that opens, and the key service does"
opens='coffer::(Opener|HpkeReceiver|KeyService)::'
same 0 "$(nm -C "$daemons/coffer-api" | grep -cE "$opens")" "what opens in coffer-api"
[ "$(nm -C "$daemons/coffer-keys" | grep -cE "$opens")" -gt 0 ] || failed "the search finds nothing where it is"

step "three daemons under three users, none of whom reads what is another's"
up
ok coffer apps create web
value=$(canary)
ok coffer secrets set -a web --stage VALUE="$value" SMALL=1
ok coffer machine run -a web --name one host -- sleep "$nap"
same "$value" "$(inside one VALUE)"
for user in $api_user $agent_user; do
  expect_code 1 as $user cat "$dir/keys/keys.db"
  expect_code 1 as $user sh -c "cat $dir/keys/kms/*"
done
expect_code 1 as $agent_user cat "$dir/api/api/writer.key"
expect_code 1 as $api_user cat "$dir/agent/host/host.key"

step "a token does what it allows, for the Apps that it names"
all=$(cat "$dir/user/user.token")
narrow() { coffer token narrow -q "$@" <<<"$all"; }
with() { COFFER_TOKEN=$1 "${@:2}"; }
expect_code 5 with "$(narrow --allow list)" coffer secrets set -a web --stage VALUE=x
says '`set`'
ok with "$(narrow --allow list)" coffer secrets list -a web
expect_code 5 with "$(narrow --app other)" coffer secrets list -a web
ok with "$(narrow --app other)" coffer apps list -j
json '. == []'
expect_code 5 with "$(narrow --allow list,set)" coffer secrets set -a web SMALL=2
says '`deploy`'
expect_code 5 with "$(narrow --allow machine)" coffer machine exec -a web one -- true
expect_code 5 with "${all%????}aaaa" coffer apps list
expect_code 5 with coffer_abc coffer apps list

step "what is no request of ours is refused with a sentence, and nothing of it comes back"
api() { # METHOD PATH [CURL-OPTION...]: the status is printed, the answer is in $OUTPUTS/out
  curl -sS --unix-socket "$dir/run/api/api.sock" -o "$OUTPUTS/out" -w '%{http_code}' -X "$1" "http://api$2" \
    -H "Authorization: Bearer ${token-$all}" "${@:3}" 2>"$OUTPUTS/err"
  cat "$OUTPUTS/out" >>"$OUTPUTS/answers"
}
json_body=(-H 'Content-Type: application/json' --data-binary @-)
bad=$(canary)
version=$(field 'map(.version) | max' secrets list -a web)
sealed=/v1/apps/web/secrets/sealed
same 200 "$(token='' api GET /healthz)"
same 401 "$(token='' api GET /v1/apps)"
same 401 "$(token=$bad api GET /v1/apps)"
same 404 "$(api GET /v1/nothing)"
same 404 "$(api PATCH /v1/apps/web)"
same 404 "$(api GET /v1/apps/$(printf absent))"
same 400 "$(api GET "/v1/apps/..%2f$bad")"
same 400 "$(api POST $sealed "${json_body[@]}" <<<"{\"set\": [{\"name\": \"$bad")"
same 400 "$(api POST $sealed "${json_body[@]}" <<<"{\"$bad\": 1}")"
same 400 "$(api POST $sealed "${json_body[@]}" <<<'{"unset": ["A"], "unset": []}')"
same 400 "$(api POST $sealed "${json_body[@]}" <<<"{\"unset\": [\"$bad-\"]}")"
same 400 "$(api POST $sealed "${json_body[@]}" <<<"{\"set\": [{\"name\": \"A\", \"record\": \"$bad\", \"digest\": \"0011223344556677\"}]}")"
same 400 "$(api POST $sealed -H 'Content-Type: text/plain' --data-binary "$bad")"
same 400 "$(printf '[%.0s' {1..200000} | api POST $sealed "${json_body[@]}")"
same 413 "$(head -c 70000000 /dev/zero | api POST $sealed -H Expect: "${json_body[@]}")"
same 413 "$(head -c 2000000 /dev/zero | api POST /v1/apps/web/deploy -H Expect: "${json_body[@]}")"
same 403 "$(api POST /v1/apps/web/secrets "${json_body[@]}" <<<"{\"values\": {\"PLAIN\": \"$bad\"}}")"
same 400 "$(api POST /v1/apps/web/machines "${json_body[@]}" <<<"{\"config\": {\"image\": \"host\", \"env\": {\"$bad=\": \"x\"}}}")"
same 400 "$(api POST /v1/apps/web/machines "${json_body[@]}" <<<"{\"config\": {\"image\": \"host\", \"files\": [{\"guest_path\": \"$bad\", \"secret_name\": \"VALUE\"}]}}")"
same 400 "$(api GET /v1/apps/web/machines/one/wait?state=$bad)"
same 408 "$(api GET '/v1/apps/web/machines/one/wait?state=stopped&timeout=1')"
same 200 "$(api GET '/v1/apps/web/machines/one/wait?state=started')"
# A sealed value of another App, or of another name, is stored by nobody who could read it: the boot refuses it.
same "$version" "$(field 'map(.version) | max' secrets list -a web)" "the newest version after all that"
nowhere "$bad" "$dir"

step "without the key service secrets are set, unset, imported and listed, and nothing is opened"
down keys
ok coffer secrets set -a web --stage VALUE="$value" SMALL=3 GOES=1
ok coffer secrets unset -a web --stage GOES
ok coffer secrets import -a web --stage < <(printf 'IMPORTED=4\n')
ok coffer secrets list -a web -j
json 'map(.name) == ["IMPORTED", "SMALL", "VALUE"]'
same "$value" "$(inside one VALUE)" "what runs goes on"
instance=$(machine one instance_id)
expect_code 6 coffer machine restart -a web one
says "key service"
same "$instance" "$(machine one instance_id)"
expect_code 6 coffer machine run -a web --name two host -- sleep "$nap"
up
ok coffer secrets deploy -a web
same "3 4" "$(inside one SMALL) $(inside one IMPORTED)"

step "without the key service secrets go back to an older version, which is rolled out when it is there again"
ok coffer secrets set -a web SMALL=30
down keys
ok coffer secrets rollback -a web --stage
ok coffer secrets list -a web -j
json 'map(select(.name == "SMALL")) | .[0].status == "Staged"'
same 30 "$(inside one SMALL)"
expect_code 1 coffer secrets deploy -a web
says "key service"
same 30 "$(inside one SMALL)" "what runs goes on"
up
ok coffer secrets deploy -a web
same 3 "$(inside one SMALL)"

step "without the agent secrets are set, and Machines go on"
down agent
ok coffer secrets set -a web --stage SMALL=5
expect_code 6 coffer machine restart -a web one
says "agent"
up
eventually 20 is one state started
ok coffer secrets deploy -a web
same 5 "$(inside one SMALL)"

step "without the API an app that crashed is booted again, with what it had"
instance=$(machine one instance_id)
down api
pid=$(pgrep -f -u $agent_user "sleep $nap" | tail -n 1)
kill -KILL "$pid"
runs_anew() { [ "$(pgrep -f -u $agent_user "sleep $nap" | tail -n 1)" != "$pid" ] && pgrep -f -u $agent_user "sleep $nap"; }
eventually 30 runs_anew >/dev/null
up
eventually 20 is one state started
different "$instance" "$(machine one instance_id)"
same "$value" "$(inside one VALUE)"

step "each daemon is killed while Machines boot: each runs once, as it is wanted"
ok coffer machine run -a web --name two host -- sleep "$nap"
n=0
for ((round = 0; round < rounds; round++)); do
  for victim in keys api agent; do
    n=$((n + 1))
    coffer secrets set -a web SMALL="round $n" >/dev/null 2>&1 &
    set=$!
    sleep "0.0$((RANDOM % 9))$((RANDOM % 9))" # somewhere in it
    down "$victim" KILL
    up
    wait "$set" || true
    for name in one two; do eventually 60 is $name state started; done
    ok coffer secrets set -a web SMALL="round $n" OTHER="$n"
    for name in one two; do
      same "round $n" "$(inside $name SMALL)"
      same "$value" "$(inside $name VALUE)"
    done
    same 2 "$(pgrep -cxf -u $agent_user "sleep $nap")" "apps that run after $victim was killed, round $round"
  done
done

step "a destroyed Machine's secrets are gone from the host, and no value was ever in the API"
holds() { memory "$(daemon "$1")" | grep -qaF -f <(forms "$2"); }
for i in $(seq 20); do ok coffer secrets set -a web --stage VALUE="$value" N="$i"; done
ok coffer machine destroy -a web two --force
ok coffer machine destroy -a web one --force
for daemon in agent api; do if holds $daemon "$value"; then failed "a value is in the memory of coffer-$daemon"; fi; done
# The control: something that is there is found.
holds api "$(cat "$dir/api/pins/identity" | head -c 16)" || holds api "secrets" || failed "the memory search finds nothing"
nowhere "$value" "$dir"

step "they end when they are told to"
down
for daemon in keys api agent; do expect_code 1 "$server_up" pid "$dir" $daemon; done

step "the API's unit is hardened"
if command -v systemd-analyze >/dev/null; then
  cp "$unit" coffer-api.service
  ok systemd-analyze security --offline=yes --threshold=15 ./coffer-api.service
  # The control: without its sandbox it is not.
  grep -v '^Private\|^Protect\|^SystemCall' "$unit" >weak.service
  expect_code 1 systemd-analyze security --offline=yes --threshold=15 ./weak.service
else
  echo "(no systemd-analyze here: not looked at)"
fi
