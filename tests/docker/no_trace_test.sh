#!/bin/bash
# no_trace_test.sh COFFER: the values of secrets are in the app and, for file secrets, in a tmpfs; nowhere else in a
# Docker engine, its files and answers, whatever happens to a Machine.  Whether the looking finds anything is shown each
# time by a container that is given its value in Docker's own ways.
set -euo pipefail
. "$(dirname "$0")/../script/lib.sh"
[ "$(id -u)" = 0 ] || { echo "skipped: needs root, for an engine of its own"; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
begin "$1"
# An engine of this test alone: what is looked through is small, and all of it is this test's.
dockerd=$here/../../scripts/dockerd
engine=$WORK/engine
files=/run/coffer/docker-$(printf %s "unix://$("$dockerd" socket "$engine")" | sha1sum | cut -c1-12) # the file secrets of this engine
at_end() {
  "$dockerd" stop "$engine"
  rm -rf "${files:?}"
}
"$dockerd" start "$engine"
name=$(basename "$(dirname "$("$dockerd" socket "$engine")")")
export DOCKER_HOST
DOCKER_HOST=unix://$("$dockerd" socket "$engine")
unset DOCKER_CONTEXT
COFFER_TEST_DOCKER=$DOCKER_HOST "$here/images"
echo '{"debug": true}' >"$engine/run/daemon.json"
kill -HUP "$("$dockerd" pid "$engine")"
says_all() { docker version >/dev/null && grep -q level=debug "$engine/dockerd.log"; }
eventually 10 says_all
v() { expect_code "$1" coffer --verbose "${@:2}"; }

declare -A value
for kind in env file mounted failing killed changed; do value[$kind]=$(canary); done
values=$(printf '%s\n' "${value[@]}")
control=$(canary)
seen=$WORK/seen # what the engine answers
mkdir "$seen"
touch "$WORK/started"

value_forms=$(forms "$values" | sort -u)
control_forms=$(forms "$control" | sort -u)
# The patterns go through pipes: in arguments they could be found themselves.
holding() { grep -lasF -f <(echo "$1") -- /dev/null "${@:2}" || true; } # FORMS FILE...

# Files below FOLDER..., changed since the test began, that hold the control or a value, and names that do.
hits() {
  local files
  while mapfile -d '' -n 1000 -t files && [ "${#files[@]}" -gt 0 ]; do
    holding "$value_forms"$'\n'"$control_forms" "${files[@]}"
  done < <(find "$@" "${aside[@]}" -type f -newercm "$WORK/started" -print0 2>/dev/null)
  find "$@" "${aside[@]}" -print 2>/dev/null | grep -aFf <(echo "$value_forms") || true
}
# Where file secrets are meant to be, and what containers see of the layers that lie beside it.
aside=('(' -path /run/coffer -o -path '*/overlay2/*/merged' ')' -prune -o)

# Processes with one of FORMS in their command line, or outside of containers in their environment.
processes_with() {
  local file
  grep -laFsf <(echo "$1") /proc/[0-9]*/cmdline || true
  for file in $(grep -laFsf <(echo "$1") /proc/[0-9]*/environ); do
    grep -q "/$name/" "${file%environ}cgroup" || echo "$file"
  done
}

# All that the engine says, into $seen.
ask_engine() {
  local id
  rm -rf "$seen"/*
  for id in $(docker ps -aq); do
    docker inspect "$id" >"$seen/inspect.$id"
    docker logs "$id" >"$seen/logs.$id" 2>&1
    docker diff "$id" >"$seen/diff.$id"
    docker export "$id" >"$seen/export.$id"
    docker top "$id" -eo pid,args >"$seen/top.$id" 2>/dev/null || true # of those that run
  done
  docker image inspect $(docker image ls -aq) >"$seen/images"
  docker network inspect $(docker network ls -q) >"$seen/networks"
  [ -z "$(docker volume ls -q)" ] || docker volume inspect $(docker volume ls -q) >"$seen/volumes"
  docker info >"$seen/info" 2>/dev/null
}
# saved CONTAINER: as an image, into $seen.
saved() {
  docker commit "$1" coffer-test/committed >/dev/null
  docker image inspect coffer-test/committed >"$seen/committed.$1"
  docker save coffer-test/committed >"$seen/saved.$1"
  docker image rm coffer-test/committed >/dev/null
}
container_of() { docker ps -aqf "label=coffer.machine=$(field ".[] | select(.name == \"$1\") | .id" machine list -a web)"; }

# All along: the engine remembers only some of its events.
docker events >"$WORK/events" 2>/dev/null &
# The control has its value as variable, argument, output, file, file name and in a command of `docker exec`.
KNOWN=$control docker run --name control -e "KNOWN=$control" coffer-test/busybox \
  sh -c 'echo "$KNOWN"; echo "$KNOWN" >/file; : >/tmp/"$KNOWN"; sleep 1000000; true' "$control" >"$WORK/control.out" 2>&1 &
control_client=$!
eventually 30 grep -q canary "$WORK/control.out"
docker exec control sh -c 'true "$0"' "$control"
control_id=$(docker ps -qf name=control)
found_control() { # WHERE FOUND
  grep -qE -- "$1" <<<"$2" || failed "the control was not found in $1"
}

# clean WHEN [MACHINE]: no value is where it should not be, in the image of the running MACHINE neither.
clean() {
  local found place all
  step "no value anywhere: $1"
  ask_engine
  if [ -n "${2-}" ]; then saved control && saved "$(container_of "$2")"; fi
  mapfile -t all < <(hits /tmp /run /dev/shm /var/tmp "$WORK" | sort -u)
  found=$(holding "$control_forms" "${all[@]}")
  for place in inspect logs diff export top ${2:+saved committed}; do found_control "$seen/$place\.(control|$control_id)" "$found"; done
  for place in "$WORK/events" "$engine/dockerd.log" config.v2.json containerd.metadata.v1.bolt/meta.db \
    "$control_id[0-9a-f]*-json.log" '/overlay2/[0-9a-f]+/diff/file'; do
    found_control "$place" "$found"
  done
  found=$(processes_with "$control_forms")
  found_control cmdline "$found"
  found_control "/proc/$control_client/environ" "$found"
  found=$(holding "$value_forms" "${all[@]}" && printf '%s\n' "${all[@]}" | grep -aFf <(echo "$value_forms")) || true
  [ -z "$found" ] || failed "a value is in: $found"
  found=$(processes_with "$value_forms")
  [ -z "$found" ] || failed "a value is in: $found"
}

# In the running apps all values are, and in the tmpfs those that are files.
app_has() { # MACHINE
  v 0 machine exec -a web "$1" -- sh -c 'test ${#ENV_SECRET} -gt 20 && test "$(wc -c </run/secret)" -gt 20'
}

step "Machines"
v 0 init --runtime docker
v 0 apps create web
v 0 secrets set -a web --stage ENV_SECRET=- < <(printf %s "${value[env]}")
v 0 secrets set -a web --stage FILE_SECRET=- < <(printf %s "${value[file]}")
v 0 secrets set -a web --stage MOUNTED=- < <(printf %s "${value[mounted]}")
mounts=(--file /run/secret=FILE_SECRET --file /etc/deep/er/secret=MOUNTED:0444)
v 0 machine run -a web --name one "${mounts[@]}" -v kept:/kept coffer-test/busybox -- sh -c 'exec sleep 1000000'
v 0 machine run -a web --name two "${mounts[@]}" --user app --read-only --cap-drop ALL coffer-test/busybox -- sleep 1000000
v 0 machine run -a web --name health "${mounts[@]}" -e PLAIN=plain coffer-test/health
v 0 machine run -a web --name ended "${mounts[@]}" coffer-test/busybox -- sh -c 'test -n "$ENV_SECRET"'
v 0 machine wait -a web ended --state stopped --timeout 30
v 0 machine list -a web
v 0 machine status -a web one
v 0 machine logs -a web one
grep -q debug "$OUTPUTS"/all.* || failed "--verbose says nothing, so its silence would prove nothing"
for machine in one two; do app_has "$machine"; done
same "${value[file]}" "$(cat "$files/$(field '.[] | select(.name == "one") | .instance_id' machine list -a web)/1")" "the file secret"
[ "$(grep -laFsf <(forms "${value[env]}") /proc/[0-9]*/environ | wc -l)" -ge 3 ] || failed "no app has its variable"
clean "while Machines run" one

step "machine exec"
mkfifo fifo
coffer --verbose machine exec -a web one -- sh -c 'echo "${#ENV_SECRET}"; exec cat' <fifo >"$OUTPUTS/exec" 2>&1 &
exec_client=$!
exec {writer}>fifo
eventually 20 grep -qx "${#value[env]}" "$OUTPUTS/exec"
clean "while machine exec runs"
exec {writer}>&-
wait "$exec_client"

step "changed, restarted, crashed"
v 0 secrets set -a web ENV_SECRET=- < <(printf %s "${value[changed]}")
v 0 machine restart -a web one
app_has one
# A shell's child dumps core where it may; what Docker starts itself does.
crash=(sh -c 'cd /tmp; ulimit -c unlimited 2>/dev/null; sleep 1000000 & kill -ABRT $!; wait; ls')
docker run --rm --ulimit core=-1 -e "KNOWN=$control" coffer-test/busybox "${crash[@]}" >"$OUTPUTS/out"
cores=$(out)
v 0 machine run -a web --name crashes "${mounts[@]}" coffer-test/busybox -- "${crash[@]}"
v 0 machine wait -a web crashes --state stopped --timeout 30
v 0 machine logs -a web crashes
[ -n "$cores" ] || echo "(no core file of any container here: this part says nothing)"
says_not core
v 0 machine exec -a web one -- "${crash[@]}"
says_not core

step "stopped, and restarted by hand"
v 0 machine stop -a web two
id=$(container_of one)
docker restart -t 0 "$id" >/dev/null
v 0 machine wait -a web one --state failed --timeout 30
v 0 machine logs -a web one -n 1
says "started behind Coffer's back"
v 0 machine start -a web two
v 0 machine stop -a web two
clean "after a change, restarts, crashes and a stop"

step "failing boots"
v 1 machine run -a web --name fails "${mounts[@]}" coffer-test/busybox -- /no/such
says 'not found in the image'
v 7 machine run -a web --name fails "${mounts[@]}" --user nobody-here coffer-test/busybox -- sleep 1000000
v 0 secrets set -a web --stage SCRIPT=$'#!/bin/sh\nexec sleep 1000000\n'
v 0 machine run -a web --name script "${mounts[@]}" --file /run/script=SCRIPT:0500 coffer-test/busybox -- /run/script
v 1 secrets set -a web SCRIPT="#!/${value[failing]}"
v 1 secrets set -a web SCRIPT=- < <(printf '#!/bin/sh\n\0') # a variable of the others
v 1 secrets set -a web BIG=- < <(printf '%s%0131072d' "${value[failing]}" 7)
v 0 secrets unset -a web --stage SCRIPT BIG
clean "after failing boots"

step "kill -9 in the middle of a boot"
for moment in preparing 'opening secrets' starting; do
  : >killed.err
  coffer --verbose machine run -a web --name killed "${mounts[@]}" coffer-test/busybox -- sleep 1000000 >killed.out 2>killed.err &
  pid=$!
  eventually 30 grep -q "$moment" killed.err
  kill -KILL "$pid"
  wait "$pid" 2>>"$OUTPUTS/killed" || true
  cat killed.out killed.err >"$OUTPUTS/all.killed.$moment"
  v 0 machine list -a web
done
clean "after kill -9 of coffer"

step "destroy"
same stopped "$(field '.[] | select(.name == "two") | .state' machine list -a web)"
v 0 apps destroy web -y
same "" "$(docker ps -aqf label=coffer.runtime.instance)" "containers"
same "" "$(find "$files" -mindepth 1)" "file secrets"
same "" "$(find "$COFFER_HOME/machines" -mindepth 1)" "what Machines left in COFFER_HOME"
if grep -rlasF -f <(echo "$value_forms") /run/coffer; then failed "a value is still in /run/coffer"; fi
clean "after destroy"
if grep -laFsf <(echo "$value_forms") /proc/[0-9]*/environ; then failed "a process still has a value"; fi
docker rm -fv control >/dev/null
wait "$control_client" || true
docker volume rm kept >/dev/null
echo passed
