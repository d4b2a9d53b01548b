#!/usr/bin/env bash
# deploy_engine_test.sh COFFER: the engine is restarted, and dies, in the midst of a roll-out.  The command ends with a
# sentence, and the next one brings all Machines to one version.
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
ok coffer init --runtime docker
printf '\n[deploy]\nsmoke_time = "1s"\n' >>home/engine.toml
ok coffer apps create web
ok coffer secrets set --stage V=first
for name in m1 m2 m3 m4; do ok coffer machine run --name "$name" coffer-test/static -- sleep; done

out_of_wave() { [ "$(field '.under_way.waves // 0' releases list)" -ge 1 ]; }
values() {
  local name
  for name in m1 m2 m3 m4; do
    coffer machine exec "$name" -- /app env V
    echo
  done | sort -u
}
for how in restart kill; do
  step "$how"
  coffer secrets set "V=$how" >set.out 2>set.err &
  set=$!
  eventually 60 out_of_wave
  ok "$dockerd" "$how" "$ENGINE_DIR"
  [ "$how" = restart ] || ok "$dockerd" start "$ENGINE_DIR"
  code=0
  wait "$set" || code=$?
  cat set.out set.err >>"$OUTPUTS/all.set.$how"
  echo "the set ended with $code: $(grep -h Error set.err || echo done)"
  [ "$code" = 0 ] || grep -q '^Error: ' set.err || failed "no sentence"
  # What the engine's end has stopped is booted again by an agent, which also ends the roll-out.
  expect_code 0 coffer agent --once
  same 4 "$(field '[.[] | select(.state == "started")] | length' machine list)" "started, by the agent"
  same 1 "$(field '[.[].secrets_version] | unique | length' machine list)" "versions, after the agent"
  expect_code 3 coffer deploy --resume
  ok coffer secrets deploy
  same 4 "$(field '[.[] | select(.state == "started")] | length' machine list)" "started"
  same 1 "$(field '[.[].secrets_version] | unique | length' machine list)" "versions"
  same "$how" "$(values)" "the value"
  expect_code 3 coffer deploy --resume
  same 4 "$(docker ps -q | wc -l)" "running containers"
  ok coffer vault check
done
