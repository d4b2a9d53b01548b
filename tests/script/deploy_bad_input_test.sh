#!/bin/bash
# deploy_bad_input_test.sh COFFER CLOCK_SHIFT_SO [RUNTIME IMAGE]: what is wrong with a release, or with the host, while
# it goes out: all Machines run the new one, or all the old one, and a sentence says which and why.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
clock_shift=$(realpath "$2")
runtime=${3:-process}
image=${4:-host}
ok coffer init --runtime "$runtime"
export COFFER_APP=web
ok coffer apps create web

# config MODE [DEPLOY-LINE]: three processes, whose app does what MODE says; standard input is added.
config() {
  {
    cat <<TOML
app = "web"
kill_timeout = 2
[build]
image = "$image"
[env]
MODE = "$1"
[deploy]
smoke_time = "0s"
TOML
    [ $# -lt 2 ] || echo "$2"
    echo "[processes]"
    for name in ${processes-one two three}; do
      cat <<'TOML' | sed "s/NAME/$name/"
NAME = """sh -c 'case $MODE in ends) sleep 2; exit 5 ;; deaf) trap "" TERM; while :; do sleep 1; done ;; esac; exec sleep 1000'"""
TOML
    done
    cat
  } >coffer.toml
}
variable() { coffer machine exec "$1" -- sh -c "printf %s \"\$$2\"" </dev/null; }
mode() { variable "$1" MODE; }
instances() { field 'map(.instance_id) | sort | join(" ")' machine list; }
# all_run MODE: each one, by its own process, and all of one release that has ended.
all_run() {
  local name
  for name in ${processes-one two three}; do same "$1" "$(mode "$name")" "mode of $name"; done
  ok coffer machine list -j
  json 'all(.[]; .state == "started")'
  ok coffer releases list -j
  json '.under_way == null and all(.releases[]; .outcome != "running")'
}
# goes_back TEXT...: `coffer deploy` ends with code 1 and one sentence, and all is as it was.
goes_back() {
  local text
  expect_code 1 coffer deploy
  same 1 "$(grep -c '^Error: ' "$OUTPUTS/err")" "error lines"
  for text in "was not rolled out" "the Machines run what they ran before" "$@"; do says "$text"; done
}

config first </dev/null
ok coffer deploy
all_run first

step "a check that never passes"
config second 'wait_timeout = "2s"' <<'TOML'
[checks.never]
type = "command"
command = "false"
TOML
coffer machine list -j | jq -r '.[].instance_id' | sort >before
goes_back "): its check never did not pass within 2 s"
all_run first
same 2 "$(coffer machine list -j | jq -r '.[].instance_id' | sort | comm -12 before - | wc -l)" "untouched Machines"

step "an image that does not exist"
before=$(instances) releases=$(field '.releases | length' releases list)
config second </dev/null
code=0
coffer deploy --image coffer-test/nope:absent >"$OUTPUTS/out" 2>"$OUTPUTS/err" || code=$?
case $code in 1 | 3) ;; *) failed "exit code $code" ;; esac
same 1 "$(grep -c '^Error: ' "$OUTPUTS/err")" "error lines"
says "coffer-test/nope:absent"
same "$before" "$(instances)"
# runtime-process looks at it when it boots the first Machine.
[ "$runtime" = process ] || same "$releases" "$(field '.releases | length' releases list)" "releases"
all_run first

step "an app that ends within the smoke time"
config ends 'wait_timeout = "10s"' </dev/null
sed -i 's/^smoke_time.*/smoke_time = "3s"/' coffer.toml
goes_back "ended with exit code 5"
all_run first

step "an app that does not hear SIGTERM"
config deaf </dev/null
ok coffer deploy
all_run deaf
config second </dev/null
ok coffer deploy
all_run second

step "a clock that is set back, and forth"
yesterday() { LD_PRELOAD=$clock_shift COFFER_TEST_CLOCK_SHIFT=-86400 "$@"; }
newest() { field '.releases[0].created_ms' releases list; }
now=$(newest)
ok yesterday coffer secrets set CLOCK=back
same Deployed "$(field '.[] | select(.name == "CLOCK") | .status' secrets list)"
# Else it ran by the right clock.
[ "$(newest)" -lt "$((now - 80000000))" ] || failed "the clock was not shifted"
config third </dev/null
ok yesterday coffer deploy
all_run third
ok coffer secrets set CLOCK=forth
for name in one two three; do same forth "$(variable $name CLOCK)" "by the right clock"; done
[ "$(newest)" -ge "$now" ] || failed "the clock is still shifted"
ok yesterday coffer secrets set CLOCK=again
for name in one two three; do same again "$(variable $name CLOCK)" "set back once more"; done
ok coffer vault check

if [ "$runtime" = docker ]; then
  step "a port of the host that is taken"
  port=$((20000 + RANDOM % 10000))
  config fourth <<TOML
[[services]]
internal_port = 8080
protocol = "tcp"
processes = ["one", "three"]
[[services.ports]]
port = $port
TOML
  goes_back "$port"
  all_run third
  docker run -d --name taken -p "$port:8080" "$image" sleep 1000 >/dev/null
  at_end() { docker rm -f taken >/dev/null; }
  sed -i 's/"one", "three"/"two"/' coffer.toml
  goes_back "Machine two (" "$port"
  all_run third
  docker rm -f taken >/dev/null
  at_end() { :; }
  ok coffer deploy
  all_run fourth
fi
ok coffer apps destroy web -y

if [ "$runtime" = process ]; then
  step "a disk that becomes full"
  mkdir full
  if mount -t tmpfs -o size=8m,mode=0700 coffer-test "$WORK/full" 2>/dev/null; then
    export COFFER_HOME=$WORK/full
    ok coffer init --runtime process
    ok coffer apps create web
    config first </dev/null
    ok coffer deploy
    all_run first
    config second </dev/null
    sed -i 's/^smoke_time.*/smoke_time = "2s"/' coffer.toml
    coffer deploy >deploy.out 2>&1 &
    deploy=$!
    out_of_wave() { [ "$(field '.under_way.waves // 0' releases list)" -ge 1 ]; }
    eventually 20 out_of_wave
    cat /dev/zero >full/filler 2>/dev/null || true
    code=0
    wait $deploy || code=$?
    cat deploy.out | tee "$OUTPUTS/out" >>"$OUTPUTS/all.full"
    cat deploy.out
    different 0 "$code" "exit code on a full disk"
    same 1 "$(grep -c '^Error: ' deploy.out)" "error lines"
    grep -qiE "no space|disk is full|is full" deploy.out || failed "no word of the disk"
    rm full/filler
    ok coffer deploy
    all_run second
    same 3 "$(find full/machines -mindepth 1 -maxdepth 1 ! -name .lock | wc -l)" "instances"
    ok coffer vault check
  else
    echo "(cannot mount here: not looked at)"
  fi
fi
