#!/bin/bash
# deploy_kill_server_test.sh COFFER SERVER_UP STORAGE_KILL_SO INNER_SO ROLE [STEP]: server mode, and a roll-out in which
# the daemon ROLE (api or agent) is killed at its Nth commit, for each STEP-th N, and started again.
#
# All Machines then come to one version, the old one or the new one: by turns with no further command, and by the next
# one that writes.  So they do when that recovery is killed, too.  The daemon's store lies behind storage-kill
# (tests/fakes/storage_kill.cc).  All that is broken is told, with the commit; then the test fails.
# Needs root, to be several users.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin_server "$1" "$2"
role=$5
stride=${6:-1}

# Where the daemons' users may read them, and write.
mkdir plugins order
cp "$3" "$4" plugins
chmod 755 plugins plugins/*
chmod 777 order
cd order
kill=$WORK/order/kill steps=$WORK/order/steps
up
down
case $role in
  api) table=storage user=$api_user path=vault ;;
  agent) table=agent.storage user=$agent_user path=agent ;;
  *) failed "no such role: $role" ;;
esac
case $4 in *storage-sqlite*) path=$path.db ;; esac
engine=$dir/$role/engine.toml
awk -v table="[$table]" '/^\[/ { skip = $0 == table } !skip' "$engine" >engine.rest
{
  cat engine.rest
  cat <<TOML
[$table]
plugin = "$WORK/plugins/$(basename "$3")"
inner = "$WORK/plugins/$(basename "$4")"
path = "$path"
kill = "$kill"
steps = "$steps"
TOML
} >"$engine"
begin_steps() { : >"$steps" && chmod 666 "$steps"; }
begin_steps
up

names="one two three"
mark=98765$$
app() { # anew, with one value in all Machines
  local name i=0
  ok coffer apps create web
  ok coffer secrets set -a web --stage V=first
  for name in $names; do ok coffer machine run -a web --name "$name" host -- sleep "$mark.$((i += 1))"; done
}
# What the app of each Machine has, by its process: "1 VALUE", a line each.
values() {
  local pid i
  for i in 1 2 3; do
    for pid in $(pgrep -x -f "sleep $mark\\.$i"); do
      tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | sed -n "s/^V=/$i /p"
    done
  done
}

# kill_at N [before]: the Nth commit from now.
kill_at() {
  rm -f "$kill" "$kill.count" "$kill.done"
  echo "$*" >"$kill.new"
  mv "$kill.new" "$kill"
}
no_kill() { rm -f "$kill"; }
killed() { [ -e "$kill.done" ]; }
gone() { ! daemon "$role" >/dev/null; }
# Until the process has ended, which a command in the background has to be, or the daemon is killed.
ended_or_killed() { # PID
  while kill -0 "$1" 2>/dev/null && ! killed; do sleep 0.02; done
  ! killed || eventually 10 gone
}
# On its way up it may be killed.
up_or_killed() {
  local pid
  COFFER_SMOKE_TIME=0s "$server_up" start "$dir" >"$OUTPUTS/up" 2>&1 </dev/null &
  pid=$!
  ended_or_killed $pid
  if killed; then kill $pid 2>/dev/null || true; fi
  wait $pid 2>/dev/null || killed || failed "$(cat "$OUTPUTS/up")"
}
deploy_or_killed() {
  local pid
  timeout 90 coffer secrets deploy -a web >"$OUTPUTS/up" 2>&1 </dev/null &
  pid=$!
  ended_or_killed $pid
  if killed; then up; fi # it may wait for the agent
  wait $pid || killed || failed "$(cat "$OUTPUTS/up")"
}
agent_there() { coffer machine list -a web >/dev/null; }
settled() {
  coffer releases list -a web -j | jq -e '.under_way == null' &&
    coffer machine list -a web -j |
    jq -e 'length == 3 and all(.[]; .state == "started") and (map(.secrets_version) | unique | length) == 1'
} >/dev/null 2>&1
at_its_end() { # within 30 s
  local deadline=$((SECONDS + 30))
  until settled; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.05
  done
}

# State after recovery: sets `value`, and adds to `broken`.
examine() { # OLD NEW
  local versions
  ok coffer machine list -a web -j
  cp "$OUTPUTS/out" list.json
  ok coffer machine list -a web
  if grep -q "cut off" "$OUTPUTS/err"; then wrong "a change is still cut off: $(err)"; fi
  jq -e 'all(.[]; .state == "started")' list.json >/dev/null ||
    wrong "states: $(jq -r 'map(.name + " " + .state) | join(", ")' list.json)"
  [ "$(jq length list.json)" = 3 ] || wrong "$(jq length list.json) Machines"
  versions=$(jq -r 'map(.secrets_version) | unique | join(" ")' list.json)
  case $versions in *" "*) wrong "versions: $versions" ;; esac
  ok coffer releases list -a web -j
  jq -e '.under_way == null and all(.releases[]; .outcome != "running")' "$OUTPUTS/out" >/dev/null ||
    wrong "releases: $(jq -c '[.under_way, .releases[0:2]]' "$OUTPUTS/out")"
  # One process per Machine.
  values >values
  [ "$(cut -d' ' -f1 values | xargs)" = "1 2 3" ] || wrong "processes and values: $(xargs <values)"
  value=$(cut -d' ' -f2- values | sort -u)
  case $value in "$1" | "$2") ;; *) wrong "values, where '$1' or '$2' should be:" $value ;; esac
  # No instance that nobody knows.
  jq -r '.[].instance_id' list.json | sort >known
  find "$dir/agent/machines" -mindepth 1 -maxdepth 1 ! -name .lock -printf '%f\n' | sort >there
  cmp -s known there || wrong "instances known: $(xargs <known); there: $(xargs <there)"
  ok as $api_user env COFFER_HOME="$dir/api" coffer vault check
}
broken=0
wrong() {
  echo "BROKEN at $at: $*" >&2
  echo "  killed at: $(cat killed_at)" >&2
  broken=$((broken + 1)) bad=1
}
last_step() { tail -n 1 "$steps" | cut -d' ' -f2- | cut -c1-300; }

# campaign NAME WHEN RECOVERY: WHEN "" or "before"; RECOVERY "killed": it is killed once, too.
campaign() {
  local n m=0 old=first new tries=0 between=0 set code
  step "$1"
  app
  for ((n = 1; n < 1000; n += stride)); do
    at="$1, N = $n" new=new$n-$2$3 bad=0
    begin_steps
    kill_at "$n" $2
    timeout 90 coffer secrets set -a web "V=$new" >set.out 2>&1 </dev/null &
    set=$!
    ended_or_killed $set
    if ! killed; then
      no_kill
      wait $set || failed "nothing was killed: $(cat set.out)"
      break
    fi
    tries=$((tries + 1))
    last_step >killed_at
    [ "$(values | cut -d' ' -f2- | sort | uniq -c | awk '{ print $1 }' | xargs)" = 3 ] || between=$((between + 1))
    # The set still lasts when the agent was killed: it waits for the agent.
    if [ "$3" = killed ]; then
      m=$((m % 13 + 1)) at="$at, recovery at $m"
      kill_at "$m" $2
      up_or_killed
      killed || deploy_or_killed
      no_kill
      last_step >>killed_at
    fi
    up
    code=0
    wait $set || code=$?
    [ "$code" != 124 ] || wrong "the set does not end: $(cat set.out)"
    # An agent that has been away for long is not waited for, and the API asks the key service who has come.
    eventually 20 agent_there
    if [ $((tries % 2)) = 0 ]; then
      at="$at, with no command"
      at_its_end || wrong "not at its end after 30 s"
    else
      code=0
      coffer secrets deploy -a web >"$OUTPUTS/out" 2>"$OUTPUTS/err" </dev/null || code=$?
      [ "$code" = 0 ] || wrong "the next command ended with $code: $(err)"
    fi
    examine "$old" "$new"
    old=$value
    if [ "$bad" = 1 ]; then # from clean ground again
      echo "  the set ended with: $(tail -n 3 set.out)" >&2
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
campaign "after a commit" "" ""
campaign "in place of a commit" before ""
campaign "after a commit, and the recovery as well" "" killed
[ "$broken" = 0 ] || failed "$broken promises are broken"
