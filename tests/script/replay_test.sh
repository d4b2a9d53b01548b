#!/bin/bash
# replay_test.sh COFFER SERVER_UP ROGUE_HOST: what a request to the key service is worth in the hands of others, or of a
# host that is asked to forget.  A relay in front of the agent records real ones.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin_server "$1" "$2"
rogue_host=$3
value=$(canary)
keys=$dir/run/keys/keys.sock relay=$WORK/relay

rogue() { as $agent_user "$rogue_host" "$@"; } # who has the host's key
replay() { rogue replay "$keys" "$1"; }
ask() { rogue ask "${@:2}" "$keys" "$dir/agent/host/host.key" "$1"; } # OPEN [--new-token]
id() { field ".[] | select(.name == \"$1\") | .id" machine list -a web; }
inside() { coffer machine exec -a web "$1" -- sh -c 'printf %s "$VALUE"' </dev/null 2>/dev/null; }
entries() { # OUTCOME ACTION MACHINE: of the key service's log
  jq -s --arg outcome "$1" --arg action "$2" --arg machine "$3" \
    'map(select(.outcome == $outcome and .action == $action and .machine == $machine)) | length' \
    "$dir/keys/audit/keys.log"
}
# refused OUTCOME ACTION MACHINE COMMAND...: it is, for that reason, and the log says so.
refused() {
  local before
  before=$(entries "${@:1:3}")
  expect_code 1 "${@:4}"
  same $((before + 1)) "$(entries "${@:1:3}")" "entries of $2 $1 in the audit log"
}

step "the agent's requests to open go through a relay"
up
ok coffer apps create web
ok coffer secrets set -a web VALUE="$value"
down agent
mkdir "$relay"
chown $agent_user "$relay"
chmod 700 "$relay"
sed -i "s|^socket = \"$keys\"|socket = \"$relay/keys.sock\"|" "$dir/agent/engine.toml"
setpriv --reuid=$agent_user --regid=$agent_user --clear-groups "$rogue_host" record "$relay/keys.sock" "$keys" "$relay" &
disown
eventually 10 [ -S "$relay/keys.sock" ]
up
for name in one two; do
  ok coffer machine run -a web --name $name host -- sleep 1000000
  mv "$relay/open" "$relay/$name.used"
  same "$value" "$(inside $name)"
done
one=$(id one) two=$(id two)

step "requests with tokens that were never used: the relay keeps them"
touch "$relay/hold"
for name in one two; do
  for n in 1 2; do
    expect_code 6 coffer machine restart -a web $name
    mv "$relay/open" "$relay/$name.$n"
  done
  same "$value" "$(inside $name)"
done
rm "$relay/hold"

step "while the Machine lives, a request opens once, also after kill -9"
refused used open "$one" replay "$relay/one.used"
says "used before"
refused used open "$one" ask "$relay/one.used"
# The first to come opens, whoever it is, and cannot read the answer.
ok as 65534 "$rogue_host" replay "$keys" /dev/stdin <"$relay/one.1"
[ "$(wc -c <"$OUTPUTS/out")" -gt ${#value} ] || failed "there is no answer"
says_not "$value"
refused used open "$one" replay "$relay/one.1"
down keys KILL
up
refused used open "$one" replay "$relay/one.1"
refused used open "$one" replay "$relay/one.used"
# The controls: as long as it is granted the Machine, the host itself can read what it is to boot with.
ok ask "$relay/two.1"
same "VALUE=$value" "$(out)"
ok ask "$relay/two.1" --new-token
same "VALUE=$value" "$(out)"

gone() { # NAME MACHINE: nothing is opened for it any more.  NAME.2 was never used.
  local kind
  for kind in used 1 2; do
    refused revoked open "$2" replay "$relay/$1.$kind"
    says "was revoked"
    refused revoked open "$2" ask "$relay/$1.$kind"
  done
  refused revoked token "$2" ask "$relay/$1.2" --new-token
}

step "of a destroyed Machine no request opens, recorded or signed anew"
ok coffer machine destroy -a web one --force
gone one "$one"
ok ask "$relay/two.1" --new-token

step "nor when the key service is killed as soon as the destruction was acknowledged"
ok coffer machine destroy -a web two --force
down keys KILL
up
gone two "$two"
gone one "$one"

step "the key service goes on, and its log is whole"
ok coffer machine run -a web --name three host -- sleep 1000000
same "$value" "$(inside three)"
ok coffer machine destroy -a web three --force
mkdir -p logs/audit
cp "$dir"/{api,keys}/audit/*.log logs/audit/
cp "$dir/api/engine.toml" logs/
ok env COFFER_HOME="$WORK/logs" coffer audit verify
