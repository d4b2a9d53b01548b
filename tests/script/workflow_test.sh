#!/bin/bash
# workflow_test.sh COFFER STORAGE [RUNTIME IMAGE [SERVER_UP]]: the main job from init to destroy, and the vault moved to
# the other storage and back.  The same commands whatever the backends: only `init` is told which.  With SERVER_UP the
# daemons do the work, and what is said of the vault itself is said in the API's home.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
storage=$2
runtime=${3:-process}
image=${4:-host}
server_up=${5:-}
[ -z "$server_up" ] || [ "$(id -u)" = 0 ] || exit 77
embedded() { [ -z "$server_up" ]; }
case $storage in sqlite) other=file ;; file) other=sqlite ;; *) exit 2 ;; esac
guest=$WORK/guest # where files appear in a Machine

secret() { field ".[] | select(.name == \"$1\") | .$2" secrets list -a web; }
machine() { field ".[] | select(.name == \"$1\") | .$2" machine list -a web; }
versions() { field '.[0].secrets_version' machine list -a web; }
# The bytes of one variable, or of one file, in a Machine.
inside_env() { coffer machine exec -a web "$1" -- cat /proc/self/environ </dev/null | sed -zn "s/^$2=//p" | tr -d '\0'; }
inside_file() { coffer machine exec -a web "$1" -- cat "$2" </dev/null; }
bytes() { od -An -v -tx1 | tr -d '\n'; }

step "init, Apps"
if embedded; then
  ok coffer init --storage "$storage" --runtime "$runtime"
  no_smoke
  expect_code 4 coffer init --storage "$storage"
  ok coffer init
  no_smoke
  ok coffer doctor -j
  json 'all(.[]; .ok)'
else
  chmod 755 "$WORK"
  mkdir -m 777 "$guest" # places for files are made by the agent's user
  COFFER_BIN=$(dirname "$(realpath "$1")")
  export COFFER_BIN COFFER_HOME=$WORK/server/user
  at_end() { "$server_up" stop "$WORK/server"; }
  ok "$server_up" start "$WORK/server" --storage "$storage" --runtime "$runtime"
  ok coffer doctor -j
  json 'all(.[]; .ok)'
  expect_code 4 coffer vault check
  says 'where coffer-api'
fi
ok coffer apps list -j
json '. == []'
ok coffer apps create web
says 'App web created'
expect_code 4 coffer apps create web
ok coffer apps list -j
json '.[0] | keys == ["created_at", "id", "machines", "name", "status"]'
json '.[0] | .name == "web" and .machines == 0 and .status == "pending" and (.id | test("^[0-9a-f]{32}$"))'
ok coffer secrets list -a web -j
json '. == []'

step "set: digests, unchanged values, versions"
ok coffer secrets set -a web --stage -j FIRST=one SECOND=one
json 'keys == ["changed", "machines", "release", "staged", "unchanged", "version"]'
json '.version == 2 and .staged and .changed == ["FIRST", "SECOND"] and .unchanged == [] and .release == null and .machines == []'
digest=$(secret FIRST digest)
different "$digest" "$(secret SECOND digest)" "digests of one value under two names"
ok coffer secrets list -a web -j
json '.[0] | keys == ["created_at", "digest", "name", "status", "updated_at", "version"]'
json 'all(.[]; .status == "Staged" and .version == 2 and (.digest | test("^[0-9a-f]{16}$")))'
ok coffer secrets set -a web --stage -j FIRST=one THIRD=3
json '.version == 3 and .changed == ["THIRD"] and .unchanged == ["FIRST"]'
ok coffer secrets set -a web --stage -j FIRST=one
json '.version == 3 and .changed == [] and .unchanged == ["FIRST"]'
ok coffer secrets set -a web --stage FIRST=one
says 'Unchanged: FIRST'
ok coffer secrets set -a web --stage FIRST=two
different "$digest" "$(secret FIRST digest)"
ok coffer secrets set -a web --stage FIRST=one
same "$digest" "$(secret FIRST digest)" "the digest of the same value, later"

step "values of all kinds, from arguments, standard input, files and dotenv"
declare -A value=(
  [QUOTES]=$'\'"`$HOME $(id) \\n \\'
  [LINES]=$'one\ntwo\r\n\n\tfour\n'
  [EQUALS]='=a==b=c='
  [UTF8]='zażółć gęślą jaźń ✓ 𝕏'
  [BAD_UTF8]=$'\xff\xfe\x80ok\xc3'
  [CONTROL]=$'\x01\x02\x1b[31m\x1f\x7f'
  [BLANKS]=$'  both ends \t '
  [EMPTY]=''
  [LONG]=$(printf '%065536d' 7)
  [FORGE]=$'x\nFORGED=1'
)
ok coffer secrets set -a web --stage QUOTES="${value[QUOTES]}" LINES="${value[LINES]}" EMPTY= BLANKS="${value[BLANKS]}"
ok coffer secrets set -a web --stage --from-file BAD_UTF8=<(printf %s "${value[BAD_UTF8]}") \
  --from-file CONTROL=<(printf %s "${value[CONTROL]}") UTF8="${value[UTF8]}"
ok coffer secrets set -a web --stage FORGE=- < <(printf %s "${value[FORGE]}")
ok coffer secrets import -a web --stage -j < <(printf '# comment\n\nexport EQUALS=%s\nLONG="%s" # end\r\n' "${value[EQUALS]}" "${value[LONG]}")
json '.changed == ["EQUALS", "LONG"]'
printf 'EQUALS=%s\n' "${value[EQUALS]}" >dotenv
ok coffer secrets import -a web --stage -j dotenv
json '.changed == [] and .unchanged == ["EQUALS"]'
ok coffer secrets set -a web --stage --from-file BINARY=<(printf 'a\0b\nc\0\377')
expect_code 7 coffer machine run -a web --name one "$image" -- sleep 1000000
says BINARY
same 0 "$(field length machine list -a web)" "Machines after a refused run"

step "run a Machine"
bind=(--file "$guest/BINARY=BINARY")
for name in "${!value[@]}"; do [ "$name" = FIRST ] || bind+=(--file "$guest/$name=$name:0440"); done
ok coffer secrets set -a web --stage ROTATED=r1
ok coffer machine run -a web --name one -e PLAIN=plain -e FIRST=plain --file "$guest/BINARY=BINARY:0440" -j "$image" -- \
  sh -c 'base64 </proc/self/environ; echo ready >&2; exec sleep 1000000'
json 'del(.runtime) | keys == ["created_at", "drift", "id", "image", "instance_id", "name", "release", "secrets_version", "state", "updated_at"]'
json --arg i "$image" '.name == "one" and .state == "started" and .image == $i and .release > 0 and (.instance_id | length) > 0'
if embedded; then json --arg r "runtime-$runtime" '.runtime == $r'; fi
grep -q 'Warning: .*FIRST' "$OUTPUTS/err" || failed "no warning of the variable that is given twice"
id=$(machine one id)
for name in "${!value[@]}"; do
  same "$(printf %s "${value[$name]}" | bytes)" "$(inside_env one "$name" | bytes)" "variable $name"
done
same plain "$(inside_env one PLAIN)"
same one "$(inside_env one FIRST)" "a secret wins over a plain variable"
same "$(printf 'a\0b\nc\0\377' | bytes)" "$(inside_file one "$guest/BINARY" | bytes)" "the file BINARY"
mode=440 default=400
if ! embedded && [ "$runtime" = docker ]; then mode=444 default=444; fi # an agent without root: runtime-docker's README
same $mode "$(coffer machine exec -a web one -- stat -c %a "$guest/BINARY" </dev/null)"
# What the app itself was given: nothing forged, nothing of the caller's, and not the secret that is a file.
is_ready() { coffer machine logs -a web one >log 2>&1 && grep -qa ready log; }
eventually 10 is_ready
coffer machine logs -a web one 2>/dev/null | base64 -d >environ
if grep -qzaE '^(FORGED|BINARY|COFFER_HOME|OLDPWD)=' environ; then failed "a variable that should not be there"; fi
same 1 "$(grep -zac '^FORGE=' environ)"
for name in "${!value[@]}"; do
  same "$(printf %s "${value[$name]}" | bytes)" "$(sed -zn "s/^$name=//p" environ | tr -d '\0' | bytes)" "the app's own $name"
done
rm environ log
ok coffer secrets list -a web -j
json 'all(.[]; .status == "Deployed")'
ok coffer apps list -j
json '.[0] | .status == "deployed" and .machines == 1'

step "the same values as files"
ok coffer machine run -a web --name files "${bind[@]}" "$image" -- sleep 1000000
for name in "${!value[@]}"; do
  same "$(printf %s "${value[$name]}" | bytes)" "$(inside_file files "$guest/$name" | bytes)" "file $name"
  same "" "$(inside_env files "$name")" "a secret that is a file is no variable"
done
same $default "$(coffer machine exec -a web files -- stat -c %a "$guest/BINARY" </dev/null)"
expect_code 4 coffer machine destroy -a web files
ok coffer machine destroy -a web files --force
expect_code 3 coffer machine status -a web files

step "exec, run, logs, wait"
expect_code 7 coffer machine exec -a web one -- sh -c 'exit 7'
ok coffer machine exec -a web one -- sh -c 'cat; echo out; echo err >&2' < <(printf in)
same inout "$(out)"
same err "$(err)"
ok coffer run -a web --only FIRST,QUOTES -- sh -c 'printf %s "$FIRST$QUOTES"; test -z "${THIRD+x}"'
same "one${value[QUOTES]}" "$(out)"
expect_code 5 coffer run -a web --only FIRST -- sh -c 'exit 5'
expect_code 127 coffer run -a web --only FIRST -- /no/such/command
expect_code 3 coffer run -a web --only MISSING -- true
ok coffer machine run -a web --name ends --restart no "${bind[@]}" "$image" -- sh -c 'echo line 1; echo line 2; echo line 3; exit 3'
ok coffer machine wait -a web ends --state failed --timeout 20
ok coffer machine status -a web ends -j
json '.state == "failed" and .exit_code == 3'
ok coffer machine logs -a web ends -n 2
same $'line 2\nline 3' "$(out)"
expect_code 6 coffer machine wait -a web ends --state started --timeout 1
ok coffer machine destroy -a web ends
ok coffer machine run -a web --name ends --restart no "${bind[@]}" "$image" -- true
ok coffer machine wait -a web ends --state stopped --timeout 20
ok coffer machine destroy -a web ends

step "set again: unchanged values restart nothing, changed ones do, one Machine after the other"
ok coffer machine run -a web --name two --file "$guest/BINARY=BINARY" "$image" -- sleep 1000000
ok coffer secrets deploy -a web
instance=$(machine one instance_id)
release=$(machine one release)
ok coffer secrets set -a web -j FIRST=one
json '.changed == [] and .unchanged == ["FIRST"] and .release == null and .machines == []'
same "$instance" "$(machine one instance_id)" "an unchanged set restarted a Machine"
other_id=$(machine two id) other_instance=$(machine two instance_id)
ok coffer secrets set -a web FIRST=two ROTATED=r2
same "$id" "$(machine one id)"
different "$instance" "$(machine one instance_id)"
same "$other_id" "$(machine two id)"
different "$other_instance" "$(machine two instance_id)"
[ "$(machine one release)" -gt "$release" ] || failed "the release number did not rise"
same "$(machine one release)" "$(machine two release)" "the release of one set"
same two "$(inside_env one FIRST)"
same r2 "$(inside_env two ROTATED)"
# The progress names a Machine in each line: all lines of one, then all of the other.
embedded && same 2 "$(err | sed -n 's/^Machine \([0-9a-f]*\): .*/\1/p' | uniq | grep -c .)" "Machines booted one after the other"
ok coffer secrets set -a web -j FIRST=three
json --arg a "$id" --arg b "$other_id" '.changed == ["FIRST"] and (.machines | map(.id) | sort) == ([$a, $b] | sort) and all(.machines[]; .result == "started") and .release > 0'

step "stop, start, statuses"
ok coffer machine stop -a web two
same stopped "$(machine two state)"
expect_code 4 coffer machine exec -a web two -- true
ok coffer secrets set -a web --stage FIRST=four
same Staged "$(secret FIRST status)"
same Deployed "$(secret ROTATED status)"
same three "$(inside_env one FIRST)"
ok coffer machine start -a web two
same four "$(inside_env two FIRST)" "what an explicit start takes"
same Partial "$(secret FIRST status)"
ok coffer machine start -a web two
says 'started already'
ok coffer secrets list -a web
grep -q '^NAME  *DIGEST  *STATUS  *AGE$' "$OUTPUTS/out" || failed "the table's head"
grep -qE '^FIRST +[0-9a-f]{16} +Partial +[0-9]+s ago$' "$OUTPUTS/out" || failed "the table's line"
ok coffer secrets deploy -a web
says 'Deploying: FIRST'
same Deployed "$(secret FIRST status)"
same four "$(inside_env one FIRST)"
ok coffer machine stop -a web two
instance=$(machine one instance_id)
ok coffer secrets set -a web -j FIRST=five
json --arg a "$id" '.machines | map(.id) == [$a]'
same stopped "$(machine two state)" "a stopped Machine after a set"
different "$instance" "$(machine one instance_id)"
ok coffer machine restart -a web one
same five "$(inside_env one FIRST)"

step "unset"
ok coffer secrets unset -a web --stage -j THIRD UNKNOWN
json '.changed == ["THIRD"] and .staged'
same 'Removed (staged)' "$(secret THIRD status)"
same 3 "$(inside_env one THIRD)"
ok coffer secrets unset -a web --stage UNKNOWN
says 'Not set'
ok coffer secrets unset -a web --stage -j UNKNOWN
json '.changed == []'
ok coffer secrets deploy -a web
same "" "$(secret THIRD status)"
same "" "$(inside_env one THIRD)"
ok coffer machine start -a web two
ok coffer secrets unset -a web SECOND
same "" "$(inside_env one SECOND)$(inside_env two SECOND)"

step "a new instance that does not start: the old one runs"
kept() { # after a set that failed: NAME STATE-BEFORE
  says "Machine $1 ("
  says_not very-secret
  same started "$(machine "$1" state)"
}
ok coffer machine stop -a web two
instance=$(machine one instance_id)
# Found before the old instance is stopped: it just goes on.
expect_code 1 coffer secrets unset -a web BINARY
kept one
says 'secret BINARY'
same "$instance" "$(machine one instance_id)"
same 'Removed (staged)' "$(secret BINARY status)"
ok coffer secrets set -a web --from-file BINARY=<(printf 'b\0')
instance=$(machine one instance_id)
expect_code 1 coffer secrets set -a web FIRST=- < <(printf 'very-secret\0')
kept one
says 'secret FIRST'
same "$instance" "$(machine one instance_id)"
same Staged "$(secret FIRST status)"
same five "$(inside_env one FIRST)"
ok coffer secrets set -a web FIRST=six
same Deployed "$(secret FIRST status)"
# Found when the new one cannot run: the old launch spec is booted again, with its own values.
ok coffer secrets set -a web --stage SCRIPT=$'#!/bin/sh\nexec sleep 1000000\n'
ok coffer machine run -a web --name script --file "$guest/BINARY=BINARY" --file "$guest/script=SCRIPT:0500" "$image" -- "$guest/script"
instance=$(machine script instance_id) version=$(machine script secrets_version)
expect_code 1 coffer secrets set -a web SCRIPT=$'#!/very-secret/interpreter\n'
kept script
kept one
different "$instance" "$(machine script instance_id)"
same "$version" "$(machine script secrets_version)"
different Deployed "$(secret SCRIPT status)"
same $'#!/bin/sh\nexec sleep 1000000' "$(inside_file script "$guest/script")"
expect_code 1 coffer secrets deploy -a web -j
json '[.machines[] | select(.name == "script") | .result] == ["kept"]'
kept script
ok coffer secrets set -a web SCRIPT=$'#!/bin/sh\nexec sleep 2000000\n'
same Deployed "$(secret SCRIPT status)"
ok coffer machine destroy -a web script --force

step "files and processes of the App config"
cat >coffer.toml <<END
app = "web"
[env]
FROM_CONFIG = "yes"
[processes]
worker = "sh -c 'exec sleep 1000000'"
[[files]]
guest_path = "$guest/decoded"
secret_name = "ENCODED"
mode = "0444"
[[files]]
guest_path = "$guest/raw"
raw_value = "plain text"
END
ok coffer secrets set --stage ENCODED="$(printf 'c\0d' | base64)"
ok coffer machine run --name worker --process worker --file "$guest/BINARY=BINARY" "$image"
same "$(printf 'c\0d' | bytes)" "$(inside_file worker "$guest/decoded" | bytes)"
same 'plain text' "$(inside_file worker "$guest/raw")"
same yes "$(inside_env worker FROM_CONFIG)"
expect_code 1 coffer secrets set ENCODED='very-secret, not base64!'
kept worker
ok coffer machine destroy worker --force
rm coffer.toml
ok coffer secrets unset -a web --stage ENCODED

step "what the App config says of a Machine, and the options that go before it"
cat >coffer.toml <<END
app = "web"
kill_signal = "SIGUSR1"
kill_timeout = "60s"
[build]
image = "$image"
[processes]
worker = "sh -c 'trap \"echo got-usr1; exit 0\" USR1; trap \"echo got-usr2; exit 0\" USR2; echo up; while :; do sleep 0.1; done'"
[[restart]]
policy = "always"
END
stops_by() { # WORD OPTION...
  local word=$1
  shift
  ok coffer machine run --name worker --process worker --file "$guest/BINARY=BINARY" "$@"
  timeout 60 grep -qm1 up <(coffer machine logs -f worker 2>/dev/null)
  ok coffer machine stop worker
  ok coffer machine logs worker
  says "$word"
  ok coffer machine destroy worker
}
stops_by got-usr1
stops_by got-usr2 --stop-signal USR2
rm coffer.toml
sleeps=(--name worker --file "$guest/BINARY=BINARY" "$image" -- sleep 1000000)
ok coffer machine run -a web "${sleeps[@]}"
says_not 'coffer agent'
ok coffer machine destroy -a web worker --force
ok coffer machine run -a web --restart always "${sleeps[@]}"
if embedded; then
  says 'no `coffer agent` runs'
  ok coffer machine destroy -a web worker --force
  ok flock -o "$COFFER_HOME/host/agent.lock" coffer machine run -a web --restart always "${sleeps[@]}"
fi
says_not 'coffer agent'
ok coffer machine destroy -a web worker --force
ok coffer machine run -a web --entrypoint "sh -c 'echo \"\$0 \$1\"'" --name worker --file "$guest/BINARY=BINARY" "$image" -- 'a b' c
ok coffer machine wait -a web worker --state stopped
ok coffer machine logs -a web worker
same 'a b c' "$(out)"
ok coffer machine destroy -a web worker

ok coffer secrets deploy -a web
# Where the vault is, and by whom: in server mode in the API's home.
vault_home=$COFFER_HOME at_vault=()
if ! embedded; then
  vault_home=$WORK/server/api
  at_vault=(setpriv --reuid=64202 --regid=64202 --clear-groups env COFFER_HOME="$vault_home")
fi
migrate() { # STORAGE PATH
  local before after
  before=$(field 'map([.name, .digest, .version, .status])' secrets list -a web)
  sed -e "s/^plugin = \"storage-.*/plugin = \"storage-$1\"\npath = \"$2\"/" -e '/^path = "moved/d' \
    "$vault_home/engine.toml" | "${at_vault[@]}" tee "$vault_home/next.toml" >/dev/null
  chmod 600 "$vault_home/next.toml"
  ok "${at_vault[@]}" coffer vault migrate --to "$vault_home/next.toml"
  # The old home refuses, whatever is asked of it.
  expect_code 4 coffer secrets list -a web
  says moved
  expect_code 4 coffer secrets set -a web --stage FIRST=lost
  expect_code 4 coffer apps create lost
  expect_code 4 coffer machine run -a web "$image" -- true
  mv "$vault_home/next.toml" "$vault_home/engine.toml"
  if ! embedded; then
    ok "$server_up" stop "$WORK/server" api
    ok "$server_up" start "$WORK/server" --storage "$storage" --runtime "$runtime"
  fi
  after=$(field 'map([.name, .digest, .version, .status])' secrets list -a web)
  same "$before" "$after" "secrets before and after the move"
  ok "${at_vault[@]}" coffer vault check
  same started "$(machine one state)"
  ok coffer machine restart -a web one
  ok coffer machine run -a web --name moved --file "$guest/BINARY=BINARY" "$image" -- sleep 1000000
  for name in "${!value[@]}"; do
    same "$(printf %s "${value[$name]}" | bytes)" "$(inside_env moved "$name" | bytes)" "variable $name after the move"
  done
  ok coffer machine destroy -a web moved --force
  ok coffer secrets set -a web ROTATED="in $1"
  same "in $1" "$(inside_env one ROTATED)"
}
step "the vault moves to the other storage and back"
migrate "$other" moved-1
migrate "$storage" moved-2

step "destroy"
expect_code 130 coffer apps destroy web </dev/null
ok coffer machine destroy -a web two --force
app=$(field '.[0].id' apps list)
state=$COFFER_HOME # of the runtime
embedded || state=$WORK/server/agent/machines
# What there is of the App's Machines, whatever runs them.
left_of_machines() {
  case $runtime in
    process) processes_of "$state" ;;
    docker) docker ps -aq --filter "label=coffer.app=$app" ;;
  esac
}
[ -n "$(left_of_machines)" ] || failed "nothing of a started Machine is found"
ok coffer apps destroy web -y
expect_code 3 coffer secrets list -a web
same "" "$(left_of_machines)" "what the App's Machines left"
same "" "$(processes_of "$state")" "processes after the App was destroyed"
same "" "$(find "$WORK"/*/machines "$WORK"/server/agent/machines -mindepth 1 ! -name .lock 2>/dev/null)" "what Machines left"
ok coffer apps create web
ok coffer secrets list -a web -j
json '. == []'
echo "passed"
