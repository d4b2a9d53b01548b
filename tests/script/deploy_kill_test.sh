#!/bin/bash
# deploy_kill_test.sh COFFER STORAGE_KILL_SO INNER_SO [STEP]: a roll-out that is killed at its Nth commit, for each
# STEP-th N.
#
# The next writing command has to bring all Machines to one version, the old one or the new one.  So it has to when it
# is killed itself, and run once more.  Vault and agent store lie behind storage-kill (tests/fakes/storage_kill.cc),
# which kills `coffer` right after a commit, or in place of it.  All that is broken is told, with the commit; then the
# test fails.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
storage_kill=$(realpath "$2")
inner=$(realpath "$3")
stride=${4:-1}

case $inner in *storage-file*) kind=file path=vault agent=agent ;; *) kind=sqlite path=vault.db agent=agent.db ;; esac
ok coffer init --runtime process --storage $kind
no_smoke
store() { # TABLE PATH
  cat <<TOML
[$1]
plugin = "$storage_kill"
inner = "$inner"
path = "$2"
kill = "$WORK/kill"
steps = "$WORK/steps"
TOML
}
# All but [storage], which is ours.
awk '/^\[/ { skip = $0 == "[storage]" } !skip' home/engine.toml >engine.rest
{
  store storage "$path"
  store agent.storage "$agent"
  cat engine.rest
} >home/engine.toml
ok coffer vault check

names="one two three"
mark=98765$$
# As a variable, which takes new instances, or in a file that is replaced in the running ones.
as=variable places=$WORK/places # which are made on the host
app() { # anew, with one value in all Machines
  ok coffer apps create web
  ok coffer secrets set -a web --stage "V=$(stored first)"
  if [ $as = variable ]; then
    for name in $names; do ok coffer machine run -a web --name "$name" host -- sleep "$mark"; done
    return
  fi
  printf '%s\n' 'app = "web"' '[build]' 'image = "host"' >coffer.toml
  for name in $names; do printf '[processes.%s]\ncommand = "sleep %s"\nsecrets = []\n' "$name" "$mark" >>coffer.toml; done
  printf '%s\n' '[[files]]' "guest_path = \"$places/v\"" 'secret_name = "V"' 'reload = "none"' >>coffer.toml
  ok coffer deploy
}
stored() { if [ $as = variable ]; then echo "$1"; else printf %s "$1" | base64 -w0; fi; }
read_value() { # MACHINE
  if [ $as = variable ]; then
    coffer machine exec -a web "$1" -- printenv V </dev/null 2>&1
  else
    coffer machine exec -a web "$1" -- cat "$places/v" </dev/null 2>&1
    echo
  fi
}

# kill_at N [before]: the Nth commit from now.
kill_at() {
  rm -f kill kill.count kill.done
  echo "$*" >kill.new
  mv kill.new kill
}
no_kill() { rm -f kill; }
# A coffer that may be killed: 0 or 137 in $code.
killed_or_not() {
  code=0
  # By a shell between us: the one that waits says "Killed".
  sh -c '"$@"; exit $?' sh "$@" >"$OUTPUTS/out" 2>"$OUTPUTS/err" </dev/null || code=$?
  case $code in 0 | 137) ;; *) failed "ended with $code" ;; esac
}

# State after recovery: sets `value`, and adds to `broken`.
examine() { # OLD NEW
  local versions name running
  ok coffer machine list -a web -j
  cp "$OUTPUTS/out" list.json
  ok coffer machine list -a web
  if grep -q "cut off" "$OUTPUTS/err"; then wrong "a change is still cut off: $(err)"; fi
  jq -e 'all(.[]; .state == "started")' list.json >/dev/null ||
    wrong "states: $(jq -r 'map(.name + " " + .state) | join(", ")' list.json)"
  [ "$(jq length list.json)" = 3 ] || wrong "$(jq length list.json) Machines"
  versions=$(jq -r 'map(.secrets_version) | unique | join(" ")' list.json)
  case $versions in *" "*) wrong "versions: $versions" ;; esac
  value=$(for name in $names; do read_value "$name" || true; done | sort -u)
  case $value in "$1" | "$2") ;; *) wrong "values, where '$1' or '$2' should be:" $value ;; esac
  # No second process of a Machine, no instance that nobody knows.
  running=$(pgrep -c -f -x "sleep $mark" || true)
  [ "$running" = 3 ] || wrong "$running processes"
  jq -r '.[].instance_id' list.json | sort >known
  find home/machines -mindepth 1 -maxdepth 1 ! -name .lock -printf '%f\n' | sort >there
  cmp -s known there || wrong "instances known: $(xargs <known); there: $(xargs <there)"
  ok coffer vault check
}
broken=0
wrong() {
  echo "BROKEN at $at: $*" >&2
  echo "  killed at: $(cat killed_at)" >&2
  broken=$((broken + 1)) bad=1
}
last_step() { tail -n 1 steps | cut -d' ' -f2- | cut -c1-300; }

# campaign NAME WHEN RECOVERY: WHEN "" or "before"; RECOVERY "killed": the recovering command is killed once, too.
campaign() {
  local n m=0 old=first new tries=0 between=0
  step "$1"
  app
  for ((n = 1; n < 1000; n += stride)); do
    at="$1, N = $n" new=new$n-$2$3 bad=0
    : >steps
    kill_at "$n" $2
    killed_or_not coffer secrets set -a web "V=$(stored "$new")"
    if [ "$code" = 0 ]; then
      no_kill
      [ ! -e kill.done ] || failed "killed and ended with 0"
      break
    fi
    tries=$((tries + 1))
    [ -e kill.done ] || failed "killed by somebody else"
    last_step >killed_at
    coffer machine list -a web -j | jq -e 'map([.state, .secrets_version]) | unique | length == 1' >/dev/null ||
      between=$((between + 1))
    if [ "$3" = killed ]; then
      m=$((m % 13 + 1)) at="$at, recovery at $m"
      kill_at "$m" $2
      killed_or_not coffer secrets deploy -a web
      no_kill
      last_step >>killed_at
    fi
    expect_code_of_recovery
    examine "$old" "$new"
    old=$value
    if [ "$bad" = 1 ]; then # from clean ground again
      ok coffer apps destroy web -y
      app
      old=first
    fi
  done
  [ "$tries" -gt 0 ] || failed "nothing was killed"
  echo "  $tries commits, the last one N = $((n - stride)); $between of them left Machines that differ"
  # Else nothing had to be mended, and this shows nothing.
  [ "$between" -gt 0 ] || [ "$stride" -gt 1 ] || failed "no kill came between two Machines"
  at="$1, not killed"
  examine "$new" "$new"
  ok coffer apps destroy web -y
}
expect_code_of_recovery() {
  local recovered=0
  coffer secrets deploy -a web >"$OUTPUTS/out" 2>"$OUTPUTS/err" || recovered=$?
  [ "$recovered" = 0 ] || wrong "the next command ended with $recovered: $(err)"
}

campaign "after a commit" "" ""
campaign "in place of a commit" before ""
campaign "after a commit, and the recovery as well" "" killed
as=file
campaign "files: after a commit" "" ""
campaign "files: in place of a commit" before ""
campaign "files: after a commit, and the recovery as well" "" killed
[ "$broken" = 0 ] || failed "$broken promises are broken"
