#!/bin/bash
# leak_test.sh COFFER: values are in no file, no output, no argument and no core file, while Machines run and
# afterwards.  The values are only ever in variables and pipes of this script, and the apps do not print them.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
guest=$WORK/guest

declare -A value
for kind in argument standard_input file dotenv file_in_machine failing bad_line mistake held; do
  value[$kind]=$(canary)
done
all=$(printf '%s\n' "${value[@]}")

cmdlines() { grep -laFsf <(forms "$1") /proc/[0-9]*/cmdline || true; }
clean() { # WHEN
  step "no value anywhere: $1"
  nowhere "$all" "$COFFER_HOME" "$WORK" /tmp /run
  local control pid
  control=$(canary)
  bash -c 'read -r _ && exit' "$control" <>"$WORK/fifo" &
  pid=$!
  eventually 10 grep -qaF "$control" "/proc/$pid/cmdline"
  [ -n "$(cmdlines "$control")" ] || failed "the control in a command line was not found"
  kill "$pid"
  wait "$pid" || true
  [ -z "$(cmdlines "$all")" ] || failed "a value is in a command line: $(cmdlines "$all")"
}
# In the environment of the apps, and of nobody else's process.
only_apps_have_it() {
  local file found=0
  for file in $(grep -laFsf <(forms "$all") /proc/[0-9]*/environ); do
    case $(readlink "${file%/environ}/exe") in
      *coffer*) failed "a value is in the environment of $(readlink "${file%/environ}/exe")" ;;
    esac
    found=$((found + 1))
  done
  [ "$found" -gt 0 ] || failed "no app has the values"
}
v() { expect_code "$1" coffer --verbose "${@:2}"; }
mkfifo fifo

step "every way in, and Machines"
v 0 init
v 0 apps create web
v 0 secrets set -a web --stage ARGUMENT="${value[argument]}" AGAIN="x${value[argument]}" FURTHER="xx${value[argument]}"
v 0 secrets set -a web --stage STDIN=- < <(printf %s "${value[standard_input]}")
v 0 secrets set -a web --stage --from-file FILE=<(printf %s "${value[file]}")
v 0 secrets import -a web --stage < <(printf 'DOTENV="%s"\nA=1 # a comment\n' "${value[dotenv]}")
v 0 secrets set -a web --stage IN_FILE="${value[file_in_machine]}"
v 0 secrets list -a web
v 0 secrets list -a web -j
v 0 machine run -a web --name one --file "$guest/secret=IN_FILE" host -- sleep 1000000
grep -q debug "$OUTPUTS/err" || failed "--verbose says nothing, so its silence would prove nothing"
v 0 machine run -a web --name two host -- sh -c 'exec sleep 1000000'
v 0 machine list -a web
v 0 machine status -a web one
v 0 machine exec -a web one -- true
v 0 machine logs -a web one
v 0 run -a web -- true
v 0 run -a web --only ARGUMENT -- sh -c 'test -n "$ARGUMENT"'
v 0 secrets set -a web B=2
v 0 secrets deploy -a web
v 0 machine restart -a web two
v 0 doctor
v 0 vault check
v 0 keys list
v 0 plugin list
v 0 plugin info kms-local
# They are there indeed.
v 0 machine exec -a web one -- sh -c 'test "$(wc -c <"$0")" -gt 20 && test ${#DOTENV} -gt 20 && test ${#STDIN} -gt 20' "$guest/secret"
only_apps_have_it
clean "while Machines run"

step "failing boots"
v 1 secrets set -a web BAD=- < <(printf '%s\0' "${value[failing]}")
v 1 secrets set -a web BAD=- < <(printf '%s%0131072d' "${value[failing]}" 7)
v 0 secrets unset -a web BAD
v 0 secrets set -a web --stage SCRIPT=$'#!/bin/sh\nexec sleep 1000000\n'
v 0 machine run -a web --name script --file "$guest/script=SCRIPT:0700" host -- "$guest/script"
v 1 secrets set -a web SCRIPT="#!/${value[failing]}"
v 1 secrets deploy -a web
v 0 machine destroy -a web script --force
v 0 secrets unset -a web SCRIPT
v 1 machine run -a web --name three host -- /no/such/command
v 7 secrets set -a web --stage COFFER_RESERVED="${value[failing]}"
printf '[[files]]\nguest_path = "%s/decoded"\nsecret_name = "NOT_BASE64"\n' "$guest" >files.toml
v 0 secrets set -a web --stage NOT_BASE64="${value[failing]}!"
v 7 machine run -a web -c files.toml --name three host -- sleep 1000000
v 0 secrets unset -a web --stage NOT_BASE64
v 3 machine run -a web -c files.toml --name three host -- sleep 1000000

step "failing imports"
for text in '%s' 'A=1\n%s\n' 'A="%s' 'A="""\n%s\n""' "A='%s\n" 'A="x" %s\n' '1%s=1\n' 'A=%s\nA=%s\n' 'A B=%s\n' '=%s\n'; do
  v 7 secrets import -a web < <(printf "$text" "${value[bad_line]}" "${value[bad_line]}")
done
v 7 secrets import -a web < <(printf 'BIG=%s%01048576d\n' "${value[bad_line]}" 7)

step "a value where none belongs"
m=${value[mistake]}
v 2 "$m"
v 2 "$m=$m"
v 2 "--$m"
v 2 "--frob=$m"
v 2 "-x$m"
v 2 secrets "$m"
v 2 secrets "--frob=$m"
v 2 secrets set -a web "--frob=$m" A=1
v 2 secrets set -a web "--$m"
v 2 secrets set -a web -- "A=$m"
v 7 secrets set "A=$m"
v 7 secrets set -a web "1A=$m"
v 7 secrets set -a web "A-B=$m"
v 7 secrets set -a web "=$m"
v 7 secrets set -a web "A=1" "B=2" "$m=$m" "É=$m"
v 7 secrets set -a web "A=$m" "A=$m"
v 7 secrets set -a web "$m " <&-
v 7 secrets set -a web --from-file "$m"
v 7 secrets set -a web --from-file "A B=$m"
v 3 secrets set -a web --from-file "A=$m"
v 3 secrets import -a web "A=$m"
v 2 secrets import -a web "A=$m" "B=$m"
v 7 secrets unset -a web "A=$m"
v 2 secrets list -a web "$m"
v 2 secrets deploy -a web "$m"
v 7 secrets set -a "$m" A=1
v 7 apps create "$m"
v 7 apps destroy "$m" -y
v 2 apps list "$m"
v 7 run -a web --only "A=$m" -- true
v 2 machine wait -a web one --state stopped --timeout "$m"
v 7 machine wait -a web one --state "$m"
v 7 machine run -a web -e "$m" host -- true
v 7 machine run -a web --file "/x=A=$m" host -- true
v 7 machine run -a web --file "$m" host -- true
v 7 machine run -a web --file "/x=ARGUMENT:$m" host -- true
v 7 machine run -a web --name "$m" host -- true
v 2 machine logs -a web one -n "$m"
v 7 init --storage "$m"
COFFER_HOME=$WORK/none v 7 init --storage "$m"

step "errors of plugins"
# The passphrase's file is the user's own, and lies where this script does not look.
(
  umask 077
  printf %s "${value[held]}" >/dev/shm/coffer-test.$$
  export COFFER_HOME=$WORK/phrase
  trap 'rm -f /dev/shm/coffer-test.$$' EXIT
  v 0 init --kms-passphrase-file /dev/shm/coffer-test.$$
  v 0 apps create web
  v 0 secrets set -a web A="${value[argument]}"
  v 0 run -a web -- sh -c 'test -n "$A"'
  printf %s "${value[mistake]}" >/dev/shm/coffer-test.$$
  v 5 run -a web -- true
  v 1 doctor
  rm /dev/shm/coffer-test.$$
  v 3 run -a web -- true
)
mv "$COFFER_HOME/kms/kek" kek
v 4 machine run -a web host -- sleep 1000000
mv kek "$COFFER_HOME/kms/kek"
clean "after failures"

step "killed while it holds a value"
hold=$WORK/hold
mkfifo "$hold"
# Returns when the coffer process $held has the value and waits for the second one.  Its arguments before: "$@".
hold() {
  "$@" coffer --verbose secrets set -a web --stage HELD="${value[held]}" --from-file OTHER="$hold" >>"$OUTPUTS/held" 2>&1 &
  held=$!
  exec {writer}>"$hold"
}
let_go() {
  exec {writer}>&-
  wait "$held" 2>>"$OUTPUTS/held"
}
mkdir cores
cd cores
ulimit -c unlimited
for signal in SEGV ABRT; do
  hold
  grep -qa HELD= "/proc/$held/cmdline" || failed "this is not the process"
  [ -z "$(cmdlines "${value[held]}")" ] || failed "the value is in a command line"
  # 1 and not 0: Machines inherit it, and at 0 the kernel still starts a core handler (core_pattern is a pipe).
  grep -q '^Max core file size  *1  *1 ' "/proc/$held/limits" || failed "a core file or a core handler is possible"
  clean "while it holds the value"
  kill -s "$signal" "$held"
  code=0
  let_go || code=$?
  same $((128 + $(kill -l "$signal"))) "$code"
done
# A process that may be dumped leaves a core file here, if cores are files at all; ours has left none.
same "" "$(ls)" "core files"
(ulimit -c unlimited; exec sleep 1000000) &
sleeper=$!
eventually 10 grep -q sleep "/proc/$sleeper/comm"
kill -ABRT "$sleeper"
wait "$sleeper" 2>/dev/null || true
[ -n "$(ls)" ] || echo "(no core file of any process here: this part says nothing)"
cd "$WORK"
rm -rf cores
# Not dumpable: who has no capability to look into any process cannot look into those of his own user either.
caps=-sys_ptrace,-perfmon,-sys_admin
plain=(setpriv --bounding-set "$caps" --inh-caps "$caps")
if "${plain[@]}" true 2>/dev/null; then
  hold "${plain[@]}"
  "${plain[@]}" sleep 1000000 &
  sleeper=$!
  eventually 10 grep -q sleep "/proc/$sleeper/comm"
  "${plain[@]}" cat "/proc/$sleeper/environ" >/dev/null || failed "the control: a plain process can be looked into"
  if "${plain[@]}" cat "/proc/$held/environ" >/dev/null 2>&1; then failed "it can be looked into"; fi
  kill "$sleeper"
  let_go
  v 0 secrets unset -a web --stage HELD OTHER
else
  echo "(setpriv cannot drop a capability here: dumpable was not looked at)"
fi

step "a Machine that crashes leaves no core either"
v 0 machine run -a web --name crash host -- sh -c 'cd "$0" && ulimit -c unlimited; kill -ABRT $$' "$WORK"
v 0 machine wait -a web crash --state failed --timeout 20
if ls "$WORK"/core* 2>/dev/null; then failed "a core file"; fi

step "destroy"
v 0 machine stop -a web two
clean "with a stopped Machine"
v 0 machine destroy -a web one --force
v 0 apps destroy web -y
clean "after destroy"
if only_apps=$(grep -laFsf <(forms "$all") /proc/[0-9]*/environ); then failed "a process still has a value: $only_apps"; fi
echo passed
