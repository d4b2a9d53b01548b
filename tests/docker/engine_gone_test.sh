#!/usr/bin/env bash
# engine_gone_test.sh COFFER: the engine is not there, goes away in mid-boot or while Machines run, and is slow to see an
# end.  Each command ends with one sentence and a remedy, and the next one brings every wanted Machine back, once.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dockerd=$here/../../scripts/dockerd
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 77; }
if [ -z "${ENGINE_DIR:-}" ]; then # an engine of its own
  ENGINE_DIR=$(mktemp -d)
  export ENGINE_DIR
  unset DOCKER_CONTEXT
  code=0
  "$dockerd" run "$ENGINE_DIR" -- "$0" "$@" || code=$?
  rm -rf "$ENGINE_DIR"
  exit "$code"
fi
. "$here/../script/lib.sh"
begin "$1"
"$here/images"
export COFFER_APP=web

# As they are wanted: these Machines are started, each with one container and value N of A; nothing else is there.
wanted() { # N MACHINE...
  local n=$1 name instances
  shift
  ok coffer machine list -j
  json --args '([.[] | select(.state == "started").name] | sort) == ($ARGS.positional | sort)' "$@"
  for name; do
    ok coffer machine exec "$name" -- /app env A
    same "$(out)" "$n" "A of $name"
    ok coffer machine exec "$name" -- /app file /run/secrets/F
    same "$(out)" "file $n" "F of $name"
  done
  instances=$(field '.[].instance_id' machine list | sort)
  same "$(docker ps -a --format '{{.Label "coffer.runtime.instance"}}' | sort)" "$instances" containers
  same "$(docker ps -q | wc -l)" $# "running containers"
  same "$(ls "$files"/docker-* | sort)" "$instances" "folders of file secrets"
  same "$(ls "$COFFER_HOME/machines" | sort)" "$instances" notes
}
gone() { # COMMAND...: exit code 6, one sentence, one remedy
  expect_code 6 "$@"
  says "no Docker engine answers at $DOCKER_HOST"
  says "systemctl start docker"
  same "$(err | wc -l)" 2 "lines of the error"
}
one_more() { n=$((n + 1)); }

step "with an engine"
files=$(mktemp -d /dev/shm/coffer-gone.XXXXXX)
trap 'rm -rf "$files"; end_of_test' EXIT
ok coffer init --runtime docker
no_smoke
sed -i "s|^plugin = \"runtime-docker\"|&\nfiles = \"$files\"|" "$COFFER_HOME/engine.toml"
ok coffer apps create web
n=1
ok coffer secrets set "A=$n" "F=file $n" --stage
for name in m1 m2; do
  ok coffer machine run --name "$name" --file /run/secrets/F=F coffer-test/static -- sleep
done
wanted 1 m1 m2

step "an end that the engine has not seen yet"
# Its helper is what is told.  Nobody must take a container for running in which nothing is.
helper=$(cat "$ENGINE_DIR/run/exec/containerd/containerd.pid")
trap 'kill -CONT "$helper"; rm -rf "$files"; end_of_test' EXIT
pid=$(docker inspect -f '{{.State.Pid}}' "$(docker ps -q --filter name=m1-)")
kill -STOP "$helper"
kill -KILL "$pid"
coffer machine list -j >"$WORK/listed" 2>&1 &
listing=$!
sleep 1 # that nothing is said cannot be waited for
early=$(cat "$WORK/listed")
kill -CONT "$helper"
same "$early" "" "listed before the engine saw the end"
wait "$listing"
jq -e '.[] | select(.name == "m1").state == "failed"' "$WORK/listed" >/dev/null || failed "m1 is not failed"
trap 'rm -rf "$files"; end_of_test' EXIT
ok coffer machine start m1
wanted 1 m1 m2

step "no engine"
"$dockerd" stop "$ENGINE_DIR"
for command in "machine list" "machine status m1" "machine restart m1" "machine stop m1" "machine destroy --force m1" \
  "machine run coffer-test/static -- sleep" "machine exec m1 -- /app pid" "secrets deploy"; do
  gone coffer -q $command
done
one_more
ok coffer secrets set "A=$n" "F=file $n" --stage # needs none
ok coffer vault check
"$dockerd" start "$ENGINE_DIR"
ok coffer machine start m1
ok coffer machine start m2
wanted "$n" m1 m2

step "an engine that restarts while Machines run"
"$dockerd" restart "$ENGINE_DIR"
ok coffer machine list -j
json 'all(.state == "stopped")' # by its own doing: it gave them time to stop
ok coffer machine start m1
ok coffer machine start m2
wanted "$n" m1 m2

step "a power loss while Machines run"
"$dockerd" kill "$ENGINE_DIR"
"$dockerd" start "$ENGINE_DIR"
ok coffer machine list -j
json 'all(.state == "failed")'
ok coffer machine start m1
ok coffer machine start m2
wanted "$n" m1 m2

# in_mid_boot VERB STEP COMMAND...: the engine is killed or restarted as soon as COMMAND is at STEP.
in_mid_boot() {
  local verb=$1 at=$2 code=0 command
  shift 2
  step "an engine ($verb) in mid-boot: $at, of $2 $3"
  rm -f "$WORK/said"
  "$@" >/dev/null 2>"$WORK/said" &
  command=$!
  eventually 30 grep -q -- ": $at\$" "$WORK/said"
  "$dockerd" "$verb" "$ENGINE_DIR"
  wait "$command" || code=$?
  "$dockerd" start "$ENGINE_DIR"
  # It may have been faster.
  case $code in
    0 | 1 | 6) ;;
    *) cat "$WORK/said" >&2; failed "ended with $code" ;;
  esac
  echo "   ended with $code: $(grep -m1 '^Error' "$WORK/said" || true)"
}
for verb in kill restart; do
  for at in preparing "opening secrets" "stopping the old instance" starting; do
    in_mid_boot "$verb" "$at" coffer machine restart m1
    # Without the agent nobody but the user brings back what the engine took down with it.
    one_more
    ok coffer secrets set "A=$n" "F=file $n"
    for name in m1 m2; do
      [ "$(field ".[] | select(.name == \"$name\").state" machine list)" = started ] || ok coffer machine start "$name"
    done
    wanted "$n" m1 m2
  done
  in_mid_boot "$verb" starting coffer machine run --name m3 --file /run/secrets/F=F coffer-test/static -- sleep
  for name in m1 m2; do ok coffer machine start "$name"; done
  if [ -n "$(field '.[] | select(.name == "m3").name' machine list)" ]; then ok coffer machine destroy --force m3; fi
  wanted "$n" m1 m2
done

step "with an agent, no command is needed"
coffer agent 2>"$WORK/agent.log" &
agent=$!
settled() { (wanted "$@") >/dev/null 2>&1; }
for verb in restart kill; do
  "$dockerd" "$verb" "$ENGINE_DIR"
  "$dockerd" start "$ENGINE_DIR"
  eventually 60 settled "$n" m1 m2
  in_mid_boot "$verb" starting coffer machine restart m1
  eventually 60 settled "$n" m1 m2
done
kill -TERM "$agent"
wait "$agent" || failed "the agent ended with $?"
wanted "$n" m1 m2 # they go on without it

ok coffer apps destroy web -y
same "$(docker ps -aq)" "" containers
same "$(ls "$files"/docker-*)" "" "folders of file secrets"
