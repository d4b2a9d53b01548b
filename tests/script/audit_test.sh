#!/bin/bash
# audit_test.sh COFFER: who did what is in the audit logs, a change of them is found, and without them nothing is done.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
value=$(canary)
api=$COFFER_HOME/audit/api.log
keys=$COFFER_HOME/audit/keys.log

step "what was done"
ok coffer init
no_smoke
ok coffer audit log
says "no such entry"
ok coffer audit verify
ok coffer apps create web
ok coffer apps create other
ok coffer secrets set -a web --stage A="$value" B="x$value"
ok coffer secrets import -a web --stage < <(echo "C=y$value")
ok coffer secrets unset -a web --stage B
ok coffer machine run -a web --name one host -- sleep 1000000
ok coffer machine exec -a web one -- sh -c "echo $value >/dev/null"
ok coffer run -a web --only A -- true
expect_code 4 coffer machine run -a web --name one host -- sleep 1000000
ok coffer machine destroy -a web one --force
ok coffer audit log
says "set web A, B (v2)"
ok coffer audit log -j
json 'map(select(.service == "api" and .action != "checkpoint")) | map(.action) == ["create app", "create app", "set",
  "set", "unset", "run machine", "exec", "run", "run machine", "destroy machine"]'
json 'map(select(.action == "run machine").outcome) == ["ok", "already_exists"]'
json 'map(select(.action == "open")) | length == 2 and all(.outcome == "ok" and .who == "host" and .app == "web")'
json 'map(select(.action == "revoke")) | length >= 2'
ok coffer audit log --service keys -a other -j
json 'map(.action) == ["create key"]'
ok coffer audit log -n 3 -j
json 'length == 3'
expect_code 7 coffer audit log --service vault
same "$(stat -c %a "$api" "$keys" "$COFFER_HOME/audit" | xargs)" "600 600 700"
# One entry per line, for cat and jq.
same "$(jq -r .n "$keys" | xargs)" "$(seq -s ' ' "$(wc -l <"$keys")")"
nowhere "$value" "$COFFER_HOME"

step "what was changed afterwards"
ok coffer audit verify
says "The audit logs are whole"
ok coffer audit verify -j
json '.findings == [] and .notices == [] and (.logs | map(.entries > 0 and .covered > 0) | all)'
cp "$keys" keys.good
sed -i '0,/grant/s//grunt/' "$keys"
expect_code 1 coffer audit verify
grep -q "keys.log: entry [0-9]* was changed" "$OUTPUTS/out" || failed "the edited entry is not named"
cp keys.good "$keys"
sed -i 3d "$keys"
expect_code 1 coffer audit verify
says "keys.log: entry 3 is missing"
head -n 2 keys.good >"$keys"
expect_code 1 coffer audit verify
says "cut off from the end: the api log saw"
ok coffer audit log
cp keys.good "$keys"
ok coffer audit verify
printf '{"n":' >>"$keys"
ok coffer audit verify
says "no tampering"

step "logs that cannot be written"
mv "$api" api.good
mkdir "$api"
expect_code 6 coffer secrets set -a web --stage A=other
says "api.log"
expect_code 6 coffer machine run -a web --name two host -- sleep 1000000
expect_code 6 coffer apps create third
ok coffer secrets list -a web -j
json 'map(select(.name == "A").version) == [2]'
ok coffer machine list -a web -j
json '. == []'
rmdir "$api"
mv api.good "$api"
rm "$keys"
mkdir "$keys"
ok coffer secrets set -a web --stage A=other
expect_code 6 coffer machine run -a web --name two host -- touch "$WORK/ran"
says "keys.log"
expect_code 6 coffer run -a web -- touch "$WORK/ran"
[ ! -e "$WORK/ran" ] || failed "something was opened that could not be logged"
rmdir "$keys"
cp keys.good "$keys"
ok coffer run -a web -- touch "$WORK/ran"
[ -e "$WORK/ran" ] || failed "nothing was run"
ok coffer audit verify
