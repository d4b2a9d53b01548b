# What the script tests share.  Sourced, and then `begin COFFER` first of all:
#
#   set -euo pipefail
#   . "$(dirname "$0")/lib.sh"
#   begin "$1"
#
# Sets WORK (a folder of this test alone), COFFER_HOME (WORK/home), OUTPUTS (all that `expect_code` has seen) and
# puts `coffer` first on the PATH.  At the end of the script, whatever its end, all Machines are destroyed.

begin() {
  local binary
  binary=$(realpath "$1")
  umask 022
  unset COFFER_APP COFFER_HOME XDG_STATE_HOME XDG_CONFIG_HOME
  export LC_ALL=C
  WORK=$(mktemp -d)
  OUTPUTS=$WORK/outputs
  mkdir "$OUTPUTS" "$WORK/bin" "$WORK/user"
  ln -s "$binary" "$WORK/bin/coffer"
  export PATH=$WORK/bin:$PATH HOME=$WORK/user COFFER_HOME=$WORK/home
  cd "$WORK"
  calls=0
  trap end_of_test EXIT
  trap 'exit 130' INT TERM
}

# begin_server COFFER SERVER_UP: the same for server mode, three daemons in `dir` that `up` starts.  COFFER_HOME is a
# user's, and `daemons` the folder of the programs.  Skipped without root, who alone can be several users.
begin_server() {
  [ "$(id -u)" = 0 ] || exit 77
  daemons=$(dirname "$(realpath "$1")")
  begin "$1"
  server_up=$2 dir=$WORK/server
  export COFFER_BIN=$daemons COFFER_HOME=$dir/user
  chmod 755 "$WORK"
  at_end() { "$server_up" stop "$dir" || true; }
}
up() { COFFER_SMOKE_TIME=${smoke_time-0s} ok "$server_up" start "$dir" "$@"; } # [OPTION...]
down() { ok "$server_up" stop "$dir" "$@"; } # [ROLE] [SIGNAL]
daemon() { "$server_up" pid "$dir" "$1"; }    # its process id
as() { setpriv --reuid="$1" --regid="$1" --clear-groups "${@:2}"; }
# The users of scripts/server-up.
keys_user=64201 api_user=64202 agent_user=64203

# memory PID: what the process can write to, as a core dump would have it, and what core dumps leave out.
memory() {
  local range perms rest from to
  while read -r range perms rest; do
    case $perms in *w*) ;; *) continue ;; esac
    from=$((16#${range%-*})) to=$((16#${range#*-}))
    dd if="/proc/$1/mem" bs=4096 skip=$((from / 4096)) count=$(((to - from) / 4096)) 2>/dev/null || true
  done <"/proc/$1/maps"
}

# What a script has to end itself, redefined by it: called when its Machines are destroyed.
at_end() { :; }

end_of_test() {
  local code=$? home app pid
  trap - EXIT
  set +e
  if [ "$code" -ne 0 ]; then
    echo "--- the last command's output:" >&2
    cat "$OUTPUTS/out" "$OUTPUTS/err" >&2 2>/dev/null
  fi
  for home in "$WORK"/*/; do
    [ -f "$home/engine.toml" ] || continue
    for app in $(COFFER_HOME=$home coffer apps list -j 2>/dev/null | jq -r '.[].name' 2>/dev/null); do
      COFFER_HOME=$home coffer apps destroy "$app" -y >/dev/null 2>&1
    done
  done
  at_end
  # What a broken home could not destroy, and what the script itself left running: all name WORK.
  for pid in $(processes_of "$WORK"); do kill -KILL "$pid" 2>/dev/null; done
  cd /
  while read -r _ mounted _; do
    case $mounted in "$WORK"/*) umount -l "$mounted" ;; esac
  done < <(tac /proc/self/mounts)
  rm -rf "$WORK"
  exit "$code"
}

# processes_of FOLDER: ids of processes, not of this script, that name it in an argument or in COFFER_HOME, or have a
# file open below it.  The last is how the supervisor of a Machine is found.
processes_of() {
  local dir pid
  for dir in /proc/[0-9]*; do
    pid=${dir#/proc/}
    if [ "$pid" = "$$" ] || [ "$pid" = "$BASHPID" ]; then continue; fi
    if grep -qsaF -- "$1" "$dir/cmdline" || grep -qsaF -- "COFFER_HOME=$1" "$dir/environ" ||
      [ -n "$(find "$dir/fd" -lname "$1/*" -print -quit 2>/dev/null)" ]; then
      echo "$pid"
    fi
  done
}

failed() {
  echo "FAILED at line ${BASH_LINENO[$((${#BASH_LINENO[@]} - 2))]}: $*" >&2
  exit 1
}

step() { echo "== $* ($SECONDS s)"; }

# expect_code N COMMAND...: runs it and wants exit code N.  Standard output is left in $OUTPUTS/out, standard error in
# $OUTPUTS/err, and both are kept for `nowhere`.  The command is not shown: a value may stand in it.
expect_code() {
  local want=$1 code=0
  shift
  calls=$((calls + 1))
  "$@" >"$OUTPUTS/out" 2>"$OUTPUTS/err" || code=$?
  cat "$OUTPUTS/out" "$OUTPUTS/err" >>"$OUTPUTS/all.$calls"
  [ "$code" = "$want" ] || failed "call $calls ($1 ${2-} ${3-}) ended with $code instead of $want"
}
ok() { expect_code 0 "$@"; }

# no_smoke: the home that was made just now waits for no Machine to stay up.
no_smoke() {
  grep -qs '^\[deploy\]' "$COFFER_HOME/engine.toml" ||
    printf '\n[deploy]\nsmoke_time = "0s"\n' >>"$COFFER_HOME/engine.toml"
}

# Of the last expect_code.
out() { cat "$OUTPUTS/out"; }
err() { cat "$OUTPUTS/err"; }
# (No `| grep -q`: it ends at the first hit, and what still writes into the pipe fails by SIGPIPE.)
says() { grep -qaF -- "$1" "$OUTPUTS/out" "$OUTPUTS/err" || failed "no word of: $1"; }
says_not() {
  if grep -qaF -- "$1" "$OUTPUTS/out" "$OUTPUTS/err"; then failed "says what it should not"; fi
}
# One JSON document and nothing else, of which the jq EXPRESSION holds.
json() {
  [ "$(jq -s length "$OUTPUTS/out" 2>/dev/null)" = 1 ] || failed "not one JSON document"
  jq -e "$@" "$OUTPUTS/out" >/dev/null || failed "JSON: not so: ${*: -1}"
}
# The value of a jq EXPRESSION over what `coffer ... -j` prints: field EXPRESSION secrets list -a web
field() {
  local expression=$1
  shift
  coffer "$@" -j 2>/dev/null | jq -r "$expression"
}

same() { [ "$1" = "$2" ] || failed "${3:-not the same}: '$1' and '$2'"; }
different() { [ "$1" != "$2" ] || failed "${3:-should differ}: '$1'"; }

# eventually SECONDS COMMAND...: waits until the command succeeds.  For conditions that nothing announces.
eventually() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || failed "did not happen in time: $*"
    sleep 0.02
  done
}

# A value to look for: letters and digits, long enough for no chance hit.
canary() {
  printf canary
  od -An -N12 -tx1 /dev/urandom | tr -d ' \n' | tr 'a-f0-9' 'G-LM-V'
}

# forms TEXT: the forms in which TEXT could lie somewhere, one a line: itself, hex, and base64 at each of the three
# places that it can have in a longer text.  Several TEXTs: a line each.  REQUIRES: 8 bytes or more each.
forms() {
  local text hex shift b64
  while IFS= read -r text; do
    hex=$(printf %s "$text" | od -An -v -tx1 | tr -d ' \n')
    printf '%s\n%s\n%s\n' "$text" "$hex" "${hex^^}"
    for shift in 0 1 2; do
      # The characters that the neighbours of TEXT could change are cut off.
      b64=$(printf '%*s%s' "$shift" '' "$text" | base64 -w0)
      b64=${b64:$(((shift * 8 + 5) / 6))}
      b64=${b64%%=*}
      b64=${b64%??}
      printf '%s\n%s\n' "$b64" "$(printf %s "$b64" | tr '+/' '-_')"
    done
  done <<<"$1"
}

# nowhere TEXT PATH...: TEXT is in no file below the PATHs, in none of its forms, and neither in any name of a file or
# output of expect_code.  A control with all forms lies in each PATH (a folder) meanwhile and must be found.
nowhere() {
  local patterns path found names controls=()
  patterns=$(forms "$1" | sort -u)
  shift
  for path in "$@" "$OUTPUTS"; do
    controls+=("$(mktemp "$path/control.XXXXXXXX")")
    echo "$patterns" >"${controls[-1]}"
  done
  # The patterns go through a pipe: in an argument they could be found themselves.
  found=$(grep -rlasF -D skip -f <(echo "$patterns") -- "$@" "$OUTPUTS" | sort -u) || true
  names=$(find "$@" 2>/dev/null | grep -aFf <(echo "$patterns")) || true
  for path in "${controls[@]}"; do
    # Each form alone is found where it is, and the search has come by here.
    local pattern
    while IFS= read -r pattern; do
      grep -qaFf <(echo "$pattern") "$path" || failed "a form is not found where it is"
    done <<<"$patterns"
    grep -qxF -- "$path" <<<"$found" || failed "the control in ${path%/*} was not found"
    found=$(grep -vxF -- "$path" <<<"$found") || true
  done
  rm -f "${controls[@]}"
  [ -z "$found" ] || failed "a value is in: $found"
  [ -z "$names" ] || failed "a value is in a file's name"
}
