#!/bin/bash
# concurrency_test.sh COFFER [STORAGE [RUNTIME IMAGE]]: several coffer processes at once: no lost update, no deadlock, no half-done roll-out.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
storage=${2:-sqlite}
runtime=${3:-process}
export image=${4:-host}
ok coffer init --storage "$storage" --runtime "$runtime"
no_smoke
ok coffer apps create web

machine() { field ".[] | select(.name == \"$1\") | .$2" machine list -a web; }
inside_env() { coffer machine exec -a web "$1" -- sh -c "printf %s \"\$$2\"" </dev/null; }
# at_once N COMMAND...: N of them, with {} replaced by 1..N; exit codes are left in $codes, outputs in $WORK/at_once.
at_once() {
  local n=$1 i pid pids=() code gate
  shift
  rm -rf at_once
  mkdir at_once
  mkfifo at_once/gate
  exec {gate}<>at_once/gate
  for ((i = 1; i <= n; ++i)); do
    ( # Each takes one line: all wait here until the gate opens.
      read -r _ <&"$gate"
      exec {gate}>&-
      exec timeout 120 "${@//\{\}/$i}" >"at_once/$i.out" 2>"at_once/$i.err" </dev/null
    ) &
    pids+=("$!")
  done
  for ((i = 1; i <= n; ++i)); do echo; done >&"$gate"
  codes=()
  for pid in "${pids[@]}"; do
    code=0
    wait "$pid" || code=$?
    codes+=("$code")
  done
  exec {gate}>&-
  rm at_once/gate
  cat at_once/* >"$OUTPUTS/out"
  : >"$OUTPUTS/err"
}
all_zero() {
  [ "$(printf '%s\n' "${codes[@]}" | sort -u)" = 0 ] || failed "exit codes: ${codes[*]}"
}

step "twenty writers: no lost update, consecutive versions"
at_once 20 coffer secrets set -a web --stage -j K{}=v{}
all_zero
same "$(seq 2 21)" "$(jq -s -r 'map(.version) | sort | .[]' at_once/*.out)" "versions"
same 20 "$(field length secrets list -a web)"
same "$(seq 2 21)" "$(field 'map(.version) | sort | .[]' secrets list -a web)" "versions that set the secrets"
ok coffer run -a web -- sh -c 'for i in $(seq 20); do eval "test \"\$K$i\" = v$i" || exit 9; done'
at_once 10 coffer secrets set -a web --stage -j SAME=v{}
all_zero
same 31 "$(field 'map(.version) | max' secrets list -a web)"
at_once 10 sh -c 'if [ $(({} % 2)) = 0 ]; then coffer secrets unset -a web --stage K{}; else coffer secrets set -a web --stage K{}=w{}; fi'
all_zero
same "$(printf 'K%s\n' 1 3 5 7 9 {11..20} | sort)" "$(field 'map(.name)[] | select(startswith("K"))' secrets list -a web | sort)"
ok coffer vault check

step "readers beside writers see whole states"
at_once 16 sh -c 'if [ $(({} % 2)) = 0 ]; then coffer secrets set -a web --stage PAIR_A=x{} PAIR_B=x{}; else coffer secrets list -a web -j; fi'
all_zero
jq -e -s 'all(.[]; [.[] | select(.name | startswith("PAIR")) | .version] | length == 0 or (length == 2 and .[0] == .[1]))' \
  at_once/{1,3,5,7,9,11,13,15}.out >/dev/null || failed "half of a write was seen"

step "one name for two Apps: one is created, the other refused"
for i in 1 2 3; do
  at_once 2 coffer apps create "twice-$i"
  same "0 4" "$(printf '%s\n' "${codes[@]}" | sort | xargs)" "exit codes"
  ok coffer secrets set -a "twice-$i" --stage A=1
done
ok coffer vault check

step "roll-outs at once: no deadlock, and all Machines end on the newest manifest"
ok coffer machine run -a web --name one "$image" -- sleep 1000000
ok coffer machine run -a web --name two "$image" -- sleep 1000000
ok coffer machine run -a web --name three "$image" -- sleep 1000000
ok coffer machine stop -a web three
at_once 5 coffer secrets set -a web ROLLED=r{} M{}=m{}
all_zero
newest=$(field 'map(.version) | max' secrets list -a web)
same "$newest" "$(machine one secrets_version)"
same "$newest" "$(machine two secrets_version)"
same stopped "$(machine three state)"
same Deployed "$(field 'map(.status) | unique[]' secrets list -a web)"
for i in 1 2 3 4 5; do same "m$i" "$(inside_env one "M$i")"; done
same "$(inside_env one ROLLED)" "$(inside_env two ROLLED)"
at_once 6 sh -c 'case {} in
  1) coffer machine restart -a web one ;;
  2) coffer machine restart -a web one ;;
  3) coffer machine stop -a web two ;;
  4) coffer machine start -a web three ;;
  5) coffer secrets set -a web MIXED=1 ;;
  6) coffer machine run -a web --name four "$image" -- sleep 1000000 ;;
esac'
# A restart that another one or the set has overtaken is a conflict.
case ${codes[0]},${codes[1]} in 0,0 | 0,4 | 4,0 | 4,4) ;; *) failed "exit codes of restart: ${codes[*]}" ;; esac
codes=("${codes[@]:2}")
all_zero
ok coffer secrets deploy -a web
newest=$(field 'map(.version) | max' secrets list -a web)
same "stopped" "$(machine two state)"
for name in one three four; do
  same started "$(machine "$name" state)"
  same "$newest" "$(machine "$name" secrets_version)"
done
ok coffer machine destroy -a web four --force

step "interrupted while it rolls out: nothing is broken, and the next command goes on"
ok coffer machine destroy -a web one --force
ok coffer machine destroy -a web two
ok coffer machine destroy -a web three --force
# Takes two seconds to end.
slow=(sh -c 'trap "sleep 2; exit" TERM; while :; do sleep 1000000 & wait; done')
ok coffer machine run -a web --name slow-1 "$image" -- "${slow[@]}"
ok coffer machine run -a web --name slow-2 "$image" -- "${slow[@]}"
interrupted_set() { # SIGNAL LINE NAME=VALUE: sends SIGNAL when LINE is on its standard error; exit code in $code
  : >set.err
  coffer secrets set -a web "$3" >set.out 2>set.err &
  local pid=$!
  eventually 30 grep -q "$2" set.err
  kill -s "$1" "$pid"
  code=0
  wait "$pid" || code=$?
  cat set.out set.err >"$OUTPUTS/out"
  : >"$OUTPUTS/err"
}
before=$(field 'map([.id, .secrets_version])[]' machine list -a web)
set -m # so that a background command takes SIGINT
interrupted_set INT 'stopping the old instance' INTERRUPTED=1
same 130 "$code" "exit code"
same "$before" "$(field 'map([.id, .secrets_version])[]' machine list -a web)" "Machines after the interrupt"
same started "$(field 'map(.state) | unique[]' machine list -a web)"
same Staged "$(field '.[] | select(.name == "INTERRUPTED") | .status' secrets list -a web)"
ok coffer vault check
ok coffer secrets deploy -a web
same Deployed "$(field 'map(.status) | unique[]' secrets list -a web)"
same 1 "$(inside_env slow-1 INTERRUPTED)$(inside_env slow-2 INTERRUPTED | tr -d 1)"

step "interrupted twice: it ends at once, and the next command goes on"
: >set.err # of the one before: its lines are not this one's
coffer secrets set -a web INTERRUPTED=2 >set.out 2>set.err &
pid=$!
eventually 30 grep -q 'stopping the old instance' set.err
kill -INT "$pid"
until ! kill -INT "$pid" 2>/dev/null; do sleep 0.02; done
code=0
wait "$pid" || code=$?
same 130 "$code" "exit code"
ok coffer secrets set -a web --stage AFTER=1
ok coffer secrets deploy -a web
same Deployed "$(field 'map(.status) | unique[]' secrets list -a web)"
same 22 "$(inside_env slow-1 INTERRUPTED)$(inside_env slow-2 INTERRUPTED)"
same 2 "$(field length machine list -a web)"

step "interrupted while it waits for a value: nothing is stored"
mkfifo value
coffer secrets set -a web --from-file NEVER=value >set.out 2>set.err &
pid=$!
exec {writer}>value
kill -INT "$pid"
code=0
wait "$pid" || code=$?
exec {writer}>&-
same 130 "$code" "exit code"
same "" "$(field '.[] | select(.name == "NEVER") | .name' secrets list -a web)"
set +m

step "two Machines of one name at once: one is made"
pids=()
for _ in 1 2 3 4 5; do
  coffer machine run -q -a web --name twin "$image" -- sleep 1000000 >/dev/null 2>&1 &
  pids+=($!)
done
made=0
for pid in "${pids[@]}"; do
  code=0
  wait "$pid" || code=$?
  case $code in 0) made=$((made + 1)) ;; 4) ;; *) failed "machine run ended with $code" ;; esac
done
same 1 "$made" "Machines made"
same 1 "$(field '[.[] | select(.name == "twin")] | length' machine list -a web)"

ok coffer vault check
ok coffer apps destroy web -y
same "" "$(processes_of "$COFFER_HOME")"
echo passed
