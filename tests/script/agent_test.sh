#!/bin/bash
# agent_test.sh COFFER [RUNTIME IMAGE]: `coffer agent` beside the other commands: crashes, stops, kills of either.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
runtime=${2:-process}
image=${3:-host}
ok coffer init --runtime "$runtime"
no_smoke
ok coffer apps create web
ok coffer secrets set -a web --stage SECRET=first-value

machine() { field ".[] | select(.name == \"$1\") | .$2" machine list -a web; }
is() { [ "$(machine "$1" "$2")" = "$3" ]; }
message() { field '.message // ""' machine status -a web "$1"; }
inside_env() { coffer machine exec -a web "$1" -- cat /proc/self/environ </dev/null | sed -zn "s/^$2=//p" | tr -d '\0'; }
# Says its process id; USR1: exit code 3, USR2: exit code 0.
app=(sh -c 'trap "exit 3" USR1; trap "exit 0" USR2; trap "exit 0" TERM; echo "pid=$$"; while :; do sleep 0.1; done')
pid_of() { coffer machine logs -a web "$1" 2>/dev/null | sed -n 's/^pid=//p' | tail -n 1; }
signal() { # NAME SIGNAL: to the app of a Machine
  local pid
  eventually 10 test -n "$(pid_of "$1")"
  pid=$(pid_of "$1")
  coffer machine exec -a web "$1" -- kill -s "$2" "$pid" </dev/null >/dev/null 2>&1 || true
}
# Ids of the instances that are there, whoever knows them.
instances() {
  case $runtime in
    process) find "$COFFER_HOME/machines" -mindepth 1 -maxdepth 1 -name '[^.]*' -printf '%f\n' ;;
    *) docker ps -a --filter "label=coffer.app=$(field '.[] | select(.name == "web") | .id' apps list)" --format '{{.Label "coffer.instance"}}' ;;
  esac | sort
}
known() { field '.[].instance_id' machine list -a web | sort; }
exactly_once() { [ "$(instances)" = "$(known)" ]; }
start_agent() {
  coffer agent 2>>"$OUTPUTS/agent" &
  agent=$!
  eventually 20 grep -q "watching" "$OUTPUTS/agent"
}
end_agent() { # SIGNAL
  kill -s "$1" "$agent"
  code=0
  wait "$agent" || code=$?
  cat "$OUTPUTS/agent" >>"$OUTPUTS/agent.all"
  : >"$OUTPUTS/agent"
}

step "one pass, without Machines"
ok coffer agent --once
for name in crash zero still; do ok coffer machine run -a web --name "$name" "$image" -- "${app[@]}"; done

step "a second agent is refused"
: >"$OUTPUTS/agent"
start_agent
expect_code 4 coffer agent
says 'an agent runs already'
expect_code 4 coffer agent --once

step "a crash is restarted with its secrets; a staged one waits for its deploy"
ok coffer secrets set -a web --stage SECRET=second-value
before=$(machine crash instance_id)
signal crash USR1
differs() { [ -n "$(machine crash instance_id)" ] && ! is crash instance_id "$before" && is crash state started; }
eventually 20 differs
same first-value "$(inside_env crash SECRET)"
grep -q 'Machine crash .* ended with exit code 3, restarting in 1 s' "$OUTPUTS/agent" || failed "the end is not in the log"

step "exit code 0 stays"
before=$(machine zero instance_id)
signal zero USR2
eventually 10 is zero state stopped
eventually 10 grep -q 'Machine zero .* ended with exit code 0' "$OUTPUTS/agent"
same 'ended with exit code 0' "$(message zero)"
sleep 2
same stopped "$(machine zero state)"
same "$before" "$(machine zero instance_id)"

step "a stop during the back-off wins"
for wait in 2 4; do
  signal crash USR1
  eventually 10 grep -q "Machine crash .* restarting in $wait s" "$OUTPUTS/agent"
  if [ "$wait" = 4 ]; then break; fi
  eventually 10 is crash state started
done
ok coffer machine stop -a web crash
sleep 5
same stopped "$(machine crash state)"
ok coffer machine start -a web crash
same second-value "$(inside_env crash SECRET)"
exactly_once || failed "instances are left"

step "a set while the agent runs: one instance each"
ok coffer secrets set -a web SECRET=third-value
for name in crash still; do
  same started "$(machine "$name" state)"
  same third-value "$(inside_env "$name" SECRET)"
done
exactly_once || failed "instances are left"

step "SIGTERM ends the agent at once, and the Machines go on"
before=$(field 'map([.name, .state, .instance_id])' machine list -a web)
begin_ms=$(date +%s%3N)
end_agent TERM
same 0 "$code" "exit code"
[ $(($(date +%s%3N) - begin_ms)) -lt 1000 ] || failed "it took more than a second"
same "$before" "$(field 'map([.name, .state, .instance_id])' machine list -a web)"
same third-value "$(inside_env still SECRET)"

step "what ended while nobody watched is booted again"
before=$(machine still instance_id)
signal still USR2
eventually 10 is still state stopped
start_agent
eventually 20 is still state started
different "$before" "$(machine still instance_id)"
same third-value "$(inside_env still SECRET)"

if [ "$runtime" = docker ]; then
  step "docker restart: the container gets no secrets a second time, and is replaced"
  before=$(machine still instance_id)
  docker restart "$(docker ps -q --filter "label=coffer.instance=$before")" >/dev/null
  replaced() { is still state started && ! is still instance_id "$before"; }
  eventually 40 replaced
  grep -q 'Machine still .* ended with exit code 78, restarting' "$OUTPUTS/agent" || failed "the end is not in the log"
  same third-value "$(inside_env still SECRET)"
  exactly_once || failed "instances are left"
fi

step "kill -9 of the agent, and a new one: each Machine once"
for ms in 0 30 60 100 150 250; do
  signal crash USR1
  # Within its restart, as near as sleeping comes.
  eventually 20 grep -q 'Machine crash .* restarting' "$OUTPUTS/agent"
  sleep "$(awk "BEGIN { print 1 + $ms / 1000 }")"
  end_agent KILL
  start_agent
  eventually 70 is crash state started
  eventually 10 exactly_once
done

step "kill -9 of a command in mid-boot: the agent cleans up"
for i in 1 2 3 4 5 6; do
  : >set.err
  coffer secrets set -a web "TURN=$i" >/dev/null 2>set.err &
  pid=$!
  case $((i % 3)) in 0) line='opening secrets' ;; 1) line='stopping the old' ;; 2) line='starting' ;; esac
  eventually 20 grep -q "$line" set.err
  kill -KILL "$pid"
  wait "$pid" 2>/dev/null || true
  all_well() { is crash state started && is still state started && exactly_once; }
  eventually 15 all_well
done

step "a Machine that was stopped stays so, and destroyed ones leave nothing"
ok coffer machine stop -a web still
end_agent TERM
ok coffer agent --once
same stopped "$(machine still state)"
start_agent
ok coffer machine destroy -a web crash --force
ok coffer apps destroy web -y
same "" "$(instances)"
end_agent TERM
same 0 "$code" "exit code"

step "the unit"
ok coffer agent install --print
says 'ExecStart='
case $runtime in process) says 'KillMode=process' ;; docker) says 'ProtectSystem=strict' ;; esac
ok env XDG_CONFIG_HOME="$WORK/config" coffer agent install --user
says 'systemctl --user enable --now coffer-agent'
unit=$WORK/config/systemd/user/coffer-agent.service
ok env XDG_CONFIG_HOME="$WORK/config" coffer agent install --user
echo '# mine' >>"$unit"
expect_code 4 env XDG_CONFIG_HOME="$WORK/config" coffer agent install --user
ok env XDG_CONFIG_HOME="$WORK/config" coffer agent install --user --force
if grep -q '# mine' "$unit"; then failed "the unit was not overwritten"; fi
if command -v systemd-analyze >/dev/null; then
  # A system unit for runtime-docker, whatever runs here: its words are those that can be wrong.
  mkdir -p unit/etc/systemd/system
  sed "s/runtime-process/runtime-docker/" "$COFFER_HOME/engine.toml" >"$COFFER_HOME/docker.toml"
  coffer --engine "$COFFER_HOME/docker.toml" agent install --print >coffer-agent.service
  grep -q ProtectSystem=strict coffer-agent.service || failed "the unit is not hardened"
  ok systemd-analyze verify --man=no ./coffer-agent.service
  says_not 'coffer-agent.service:' # a warning names its line
  ok systemd-analyze security --offline=yes --threshold=25 ./coffer-agent.service
  grep -a 'Overall exposure' "$OUTPUTS/out"
fi

nowhere first-value "$COFFER_HOME" "$OUTPUTS"
nowhere third-value "$COFFER_HOME" "$OUTPUTS"
echo passed
