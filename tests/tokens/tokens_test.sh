#!/bin/bash
# tokens_test.sh COFFER: user tokens as a person meets them, and in the hands of another library.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
. "$here/../script/lib.sh"
begin "$1"

other() { "$here/with_pymacaroons.py" "$@"; }
# One that does not find its library would refuse everything.
/usr/bin/python3 -c 'import pymacaroons' || failed "python3-pymacaroons is missing: scripts/packages --test"

# refused CODE TEXT COMMAND...: one sentence, and no part of any token.
refused() {
  local code=$1 text=$2
  shift 2
  expect_code "$code" "$@"
  says "$text"
  says_not coffer_Ag
  says_not hunter2
  same 1 "$(grep -c '^Error: ' "$OUTPUTS/err")" "error lines"
}
# Tokens are made outside of expect_code, so that `nowhere` may look at all that it has seen.
check() { coffer token check -j; }

ok coffer init
no_smoke
ok coffer apps create web

step "a token that was made is valid, with the rights it was made with"
token=$(coffer token create -q --name ci --app web --app api --allow list,set,deploy --expires 30d)
check <<<"$token" >check
jq -e '.name == "ci" and .apps == ["api","web"] and .allow == ["list","set","deploy"]' check >/dev/null || failed "$(cat check)"
days=$((($(date -u -d "$(jq -r .expires_at check)" +%s) - $(date +%s) + 60) / 86400))
same 30 "$days" days
same "$(cat check)" "$(COFFER_TOKEN=$token check </dev/null)" "by the variable"
same "$(cat check)" "$(COFFER_TOKEN=hunter2 check <<<"$token")" "what is piped in goes first"
all=$(coffer token create -j | jq -r .token)
same 'null 10 null' "$(check <<<"$all" | jq -r '"\(.apps) \(.allow | length) \(.expires_at)"')"
[ "$(coffer token create -q --app web,api </dev/null | check | jq -c .apps)" = '["api","web"]' ] || failed "--app with a comma"
same '["x"]' "$(coffer -a x token create -q | check | jq -c .apps)" "-a in front"
same '["web"]' "$(COFFER_APP=other coffer token create -q -a web | check | jq -c .apps)"
same 'null' "$(COFFER_APP=other coffer token create -q | check | jq -c .apps)" "COFFER_APP narrows no token"

step "narrowed by another library: exactly the narrowed rights"
narrowed=$(other add 'app = web,other' 'allow = list,exec' <<<"$token")
same '["web"] ["list"]' "$(check <<<"$narrowed" | jq -r '"\(.apps) \(.allow)"')"
ending=$(other add 'app = web' 'expires = 2100-01-01T00:00:00Z' <<<"$all")
same '["web"] 10 2100-01-01T00:00:00Z' "$(check <<<"$ending" | jq -r '"\(.apps) \(.allow | length) \(.expires_at)"')"
export TZ=UTC
ok faketime -f '2099-12-31 23:59:59' coffer token check < <(echo "$ending")
refused 5 'has expired' faketime -f '2100-01-01 00:00:00' coffer token check < <(echo "$ending")
# By ours behind theirs, and theirs behind ours, as far as it goes.
same '["web"] ["list"]' "$(coffer token narrow -q --allow list <<<"$token" | other add 'app = web' | check | jq -r '"\(.apps) \(.allow)"')"
same '["web"] ["list"]' "$(other add 'app = web' <<<"$token" | coffer token narrow -q --allow list | check | jq -r '"\(.apps) \(.allow)"')"
# More is not to be had: of what was taken away nothing comes back.
same '["web"] ["list"]' "$(other add 'app = web' 'allow = list' 'app = web,api' 'allow = list,set,deploy' <<<"$token" | check | jq -r '"\(.apps) \(.allow)"')"

step "narrowed offline: no engine, no home, no key"
same '["web"]' "$(COFFER_HOME=$WORK/none coffer token narrow -j --app web <<<"$token" | jq -c .apps)"

step "wrong tokens, each by its own words"
flipped=$(other flip <<<"$token")
refused 5 'was changed, or was not made here' coffer token check < <(echo "$flipped")
refused 5 'was changed, or was not made here' coffer token check < <(other remove 0 <<<"$token")
refused 5 'was changed, or was not made here' coffer token check < <(other remove 2 <<<"$token")
refused 5 'was changed, or was not made here' coffer token check < <(other reverse <<<"$token")
refused 5 'caveat 4 of the token is not understood' coffer token check < <(other add 'host = hunter2' <<<"$token")
refused 5 'caveat 5 of the token is not understood' coffer token check < <(other add 'app = web' 'allow = hunter2' <<<"$token")
refused 5 'caveat 4 of the token is not understood' coffer token check < <(other add 'expires = 30d' <<<"$token")
refused 7 'third-party caveat' coffer token check < <(other third-party <<<"$token")
refused 5 'has expired' faketime -f +31d coffer token check < <(echo "$token")
ok faketime -f +29d coffer token check < <(echo "$token")
refused 7 'more than 64 caveats' coffer token check < <(other add $(printf 'app=%s ' $(seq 62)) <<<"$token")
refused 5 'caveat 4' coffer token check < <(other add $(printf 'app=%s ' $(seq 61)) <<<"$token")
refused 7 'more than 8' coffer token check < <(other add "app = $(printf '%09000d' 7)" <<<"$token")
refused 7 'more than 8' coffer token check < <(head -c 1000000 /dev/zero)
refused 7 'not base64' coffer token check < <(echo "$token x")
refused 7 'not base64' coffer token check < <(echo hunter2!)
refused 7 'is no macaroon' coffer token check < <(echo hunter22)
refused 7 'no token was given' coffer token check </dev/null
refused 7 'in JSON' coffer token check < <(echo '{"v":2}')
# Of another home: the same software, another root.
COFFER_HOME=$WORK/second ok coffer init
foreign=$(COFFER_HOME=$WORK/second coffer token create -q)
refused 5 'was changed, or was not made here' coffer token check < <(echo "$foreign")
COFFER_HOME=$WORK/second ok coffer token check < <(echo "$foreign")

step "what is asked for in a wrong way makes no token"
before=$(field length token list)
for how in '--app hunter2!' '--app web,,api' '--allow hunter2' '--allow list,,set' '--allow Set' '--expires hunter2' '--expires 0d' '--expires 30' \
  '--expires d' '--expires 99999999999d' '--expires 99999999999999999999d' '--expires 2020-01-01T00:00:00Z' '--expires 2027-01-01' \
  '--name hunter2!' "--name $(printf '%064d' 7)" "--name $(printf '%032d' 7)"; do
  refused 7 '' coffer token create $how
done
# Given as nothing is not the same as not given: it must not make a token of all rights.
for option in --app --allow --expires; do
  refused 7 "$option" coffer token create "$option" ''
  refused 7 "$option" coffer token narrow "$option" '' < <(echo "$token")
done
refused 4 'the name ci already' coffer token create --name ci
refused 7 'nothing to narrow' coffer token narrow < <(echo "$token")
refused 7 'nothing would be left' coffer token narrow --allow exec < <(echo "$token")
refused 7 'nothing would be left' coffer token narrow --app other < <(echo "$token")
refused 7 'is no macaroon' coffer token narrow --app web < <(echo hunter22)
same "$before" "$(field length token list)" "tokens"

step "a token in an argument is refused and not repeated"
for where in "token narrow" "token check" "token revoke" "token create --name" "secrets list -a" "apps create"; do
  refused 2 'is a token' coffer $where "$token"
  refused 2 'is a token' coffer $where "${token#coffer_}"
done
refused 2 'is a token' coffer token narrow "--token=$token"
refused 2 'is a token' coffer "$flipped"

step "list and revoke"
ok coffer token list
says ci
says 'api,web'
json_of_list=$(coffer token list -j)
id=$(jq -r '.[] | select(.name == "ci") | .id' <<<"$json_of_list")
same 32 "${#id}" "length of an id"
jq -e '.[] | select(.name == "ci") | .apps == ["api","web"] and .allow == ["list","set","deploy"] and .expired == false and (.who | length > 0)' \
  <<<"$json_of_list" >/dev/null || failed "$json_of_list"
child=$(coffer token narrow -q --allow list <<<"$token")
ok coffer token revoke ci
says "$id"
for t in "$token" "$child"; do refused 5 'was revoked' coffer token check < <(echo "$t"); done
refused 3 'no token named ci' coffer token revoke ci
refused 3 "$id" coffer token revoke "$id"
refused 7 "a token's name has" coffer token revoke 'hunter2!'
ok coffer token check < <(echo "$all")
one=$(coffer token create -j --name one)
ok coffer token revoke "$(jq -r .id <<<"$one")"
refused 5 'was revoked' coffer token check < <(jq -r .token <<<"$one")

step "an older vault does not bring a revoked token back"
back=$(coffer token create -q --name back)
sqlite3 "$COFFER_HOME/vault.db" 'pragma wal_checkpoint(truncate)' >/dev/null
cp -p "$COFFER_HOME/vault.db" older.db
ok coffer token revoke back
sqlite3 "$COFFER_HOME/vault.db" 'pragma wal_checkpoint(truncate)' >/dev/null
cp -p older.db "$COFFER_HOME/vault.db"
refused 5 'was revoked' coffer token check < <(echo "$back")
[ "$(field 'map(.name) | index("back")' token list)" = null ] || failed "it is listed again"

step "kill -9 as soon as the revocation is acknowledged"
for i in 1 2 3; do
  coffer token create -q --name "k$i" >"k$i"
  mkfifo said
  coffer token revoke "k$i" >said &
  pid=$!
  read -r _ <said
  kill -9 "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  rm said
  refused 5 'was revoked' coffer token check <"k$i"
done

step "moved with the vault"
cat >"$COFFER_HOME/file.toml" < <(sed 's/"storage-sqlite"/"storage-file"/' "$COFFER_HOME/engine.toml")
chmod 600 "$COFFER_HOME/file.toml"
ok coffer vault migrate --to "$COFFER_HOME/file.toml"
refused 4 'was moved' coffer token create --name late
ok mv "$COFFER_HOME/file.toml" "$COFFER_HOME/engine.toml"
ok coffer token check < <(echo "$all")

step "a home from before there were tokens gets its root by init; a lost root voids all"
rm "$COFFER_HOME/api/token.root"
refused 4 'api/token.root is missing' coffer token create
ok coffer init
no_smoke
same 400 "$(stat -c %a "$COFFER_HOME/api/token.root")"
refused 5 'was changed, or was not made here' coffer token check < <(echo "$all")
expect_code 1 coffer token list
says 'was not written by this authority'
for id in $(grep -ohE '[0-9a-f]{32}' "$OUTPUTS/err" | sort -u); do ok coffer token revoke "$id"; done
ok coffer token list

step "no token is kept or logged"
for t in "$token" "$all" "$child" "$foreign" "$narrowed" "$ending"; do
  # The signature alone is what nobody else can make.
  nowhere "$(tail -c 40 <<<"${t#coffer_}" | tr -d '\n=')" "$COFFER_HOME"
done
ok coffer apps destroy web -y
echo passed
