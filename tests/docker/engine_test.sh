#!/usr/bin/env bash
# engine_test.sh: a private engine runs the test images, reaches published ports, comes back after restart, power loss
# and kill -9, does not disturb another one, and leaves nothing behind.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dockerd=$here/../../scripts/dockerd
[ "$(id -u)" = 0 ] || { echo "skipped: needs root"; exit 77; }

work=$(mktemp -d)
one=$work/one
# Longer than a socket's path may be.
two=$work/two/$(printf 'deep%.0s' {1..30})
host() { echo "unix://$("$dockerd" socket "$1")"; }
name() { basename "$(dirname "$("$dockerd" socket "$1")")"; }
on() { DOCKER_HOST=$(host "$1") docker "${@:2}"; }
unset DOCKER_CONTEXT COFFER_TEST_DOCKER

step() { echo "== $* ($SECONDS s)"; }
failed() {
  echo "failed (lines ${BASH_LINENO[*]}): $*" >&2
  exit 1
}
same() { [ "$1" = "$2" ] || failed "expected '$1', got '$2'"; }
# expect CODE OUTPUT COMMAND...
expect() {
  local want=$1 text=$2 code=0 got
  shift 2
  got=$("$@" 2>&1) || code=$?
  [ "$code" = "$want" ] || failed "exit code $code instead of $want: $* -> $got"
  case $got in *"$text"*) ;; *) failed "no '$text' in: $got" ;; esac
}
# eventually COMMAND...: waits until it succeeds.
eventually() {
  local deadline=$((SECONDS + 60))
  until "$@" 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || failed "did not happen in time: $*"
    sleep 0.05
  done
}
# prints CONTAINER TEXT: waits until a line of its output is TEXT.
prints() { eventually has_printed "$@"; }
has_printed() { grep -qxF -- "$2" <<<"$(docker logs "$1" 2>&1)"; }
state() { on "$1" inspect -f '{{.State.Status}}' "$2"; }
network() { readlink "/proc/$("$dockerd" pid "$1")/ns/net"; }

# What there is of an engine: processes, mounts, control groups, files of /run.
traces() { # DIR NAME
  local dir=$1 name=$2
  grep -lsaF -f <(printf '%s\n' "$dir/" "$name") /proc/[0-9]*/cmdline || true # no pattern is an argument of grep's own
  grep -F -e "$dir/" -e "/$name/" /proc/self/mountinfo || true
  find /sys/fs/cgroup -name "$name"
  find /run -path "*$name*" -prune
}
# Another program that looks through the folder right now names it too, for a moment.
no_trace() { [ -z "$(traces "$1" "$2")" ]; }
# members NETWORK: how many processes are in it.
members() { readlink /proc/[0-9]*/ns/net | grep -cxF -- "$1" || true; }
end() {
  local code=$?
  trap - EXIT
  "$dockerd" stop "$one" || code=1
  "$dockerd" stop "$two" || code=1
  umount -l "$work/later" 2>/dev/null || true
  rm -rf "$work" || code=1
  exit "$code"
}
trap end EXIT
trap 'exit 130' INT TERM

step "nothing runs: no socket, no pid, one sentence"
expect 1 '' "$dockerd" pid "$one"
expect 1 "no engine runs in $one" "$dockerd" netns "$one" -- true
expect 0 '' "$dockerd" stop "$one"
expect 2 'scripts/dockerd start' "$dockerd"
expect 2 'scripts/dockerd start' "$dockerd" start
expect 2 'scripts/dockerd start' "$dockerd" begin "$one"
expect 0 'scripts/dockerd start' "$dockerd" --help

step "an engine that cannot start says why, in its own words"
mkdir -p "$one/data"
echo no folder >"$one/data/containers"
expect 1 'does not start' "$dockerd" start "$one"
expect 1 "$one/data/containers: not a directory" "$dockerd" start "$one"
rm "$one/data/containers"

step "two engines, started at once, and each a second time"
"$dockerd" start "$one" & first=$!
"$dockerd" start "$one" & second=$!
"$dockerd" start "$two"
wait "$first"
wait "$second"
pid=$("$dockerd" pid "$one")
"$dockerd" start "$one"
same "$pid" "$("$dockerd" pid "$one")"
[ "$(network "$one")" != "$(network "$two")" ] || failed "one network for two engines"
[ "$(network "$one")" != "$(readlink /proc/self/ns/net)" ] || failed "the engine is in the caller's network"
same "$(readlink /proc/self/ns/mnt)" "$(readlink "/proc/$pid/ns/mnt")"
COFFER_TEST_DOCKER=$(host "$one") "$here/images"
same "" "$(on "$two" image ls -q)"

step "the images"
export DOCKER_HOST
DOCKER_HOST=$(host "$one")
run() { docker run --rm --network none "$@"; }
images() { docker image ls --no-trunc --format '{{.ID}} {{.Repository}}' --filter label=coffer-test.made | sort; }
before=$(images)
same 7 "$(wc -l <<<"$before")"
same "" "$(COFFER_TEST_DOCKER=$DOCKER_HOST "$here/images" 2>&1)"
same "$before" "$(images)"
for tool in sh cat od sleep env printf stat id base64 sed wc test setsid nc httpd; do echo "$tool"; done >"$work/tools"
expect 0 '' run -i coffer-test/busybox sh -c 'while read -r tool; do type "$tool" >/dev/null || echo "no $tool"; done' <"$work/tools"
same "" "$(run -i coffer-test/busybox sh -c 'while read -r tool; do type "$tool" >/dev/null || echo "no $tool"; done' <"$work/tools")"
expect 0 'uid=1000(app) gid=1000(app)' run --user app coffer-test/busybox id
expect 0 '1777' run coffer-test/busybox stat -c %a /tmp
same app "$(run coffer-test/static file /proc/self/comm)"
same 1 "$(run coffer-test/static pid)"
same 65532:0 "$(run coffer-test/user65532 ids)"
same "two words" "$(run -e NAME="two words" coffer-test/static env NAME)"
same $'a\nb c' "$(run coffer-test/static args a "b c")"
expect 1 '' run coffer-test/static env NAME
expect 5 '' run coffer-test/static exit 5
expect 127 'no such file' run --entrypoint /bin/sh coffer-test/static
expect 125 'No command specified' run coffer-test/noentry
expect 0 'command' run coffer-test/noentry echo command
expect 0 ' /data ' run coffer-test/volume cat /proc/self/mounts
same arm64 "$(docker image inspect -f '{{.Architecture}}' coffer-test/arm64)"
expect 1 'exec format error' run coffer-test/arm64

step "signals"
docker run -d --name ends coffer-test/static sleep >/dev/null
docker run -d --name stays coffer-test/static ignore-term >/dev/null
prints ends ready
prints stays ready
docker stop -t 60 ends >/dev/null
prints ends 'got TERM'
same 0 "$(docker wait ends)"
docker stop -t 1 stays >/dev/null
same 137 "$(docker wait stays)"
docker rm ends stays >/dev/null

step "health"
for token in x ''; do
  docker run -d --name "health$token" -e HEALTH_TOKEN="$token" coffer-test/health >/dev/null
done
health() { eventually is_health "$@"; }
is_health() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = "$2" ]; }
health healthx healthy
health health unhealthy
docker rm -f healthx health >/dev/null

step "published ports are in the engine's own network"
mkdir "$work/page"
echo hello >"$work/page/index.html"
docker run -d --name page -p 8080:80 -v "$work/page:/page:ro" coffer-test/busybox sh -c 'httpd -h /page -p 80; echo ready; exec sleep 1000000' >/dev/null
prints page ready
same hello "$("$dockerd" netns "$one" -- busybox wget -qO- http://127.0.0.1:8080/)"
expect 1 '' "$dockerd" netns "$two" -- busybox wget -qO- http://127.0.0.1:8080/
# The other engine has the same port, and what is mounted after its start can be given to a container.
COFFER_TEST_DOCKER=$(host "$two") "$here/images"
mkdir "$work/later"
mount -t tmpfs tmpfs "$work/later"
echo other >"$work/later/index.html"
on "$two" run -d --name page -p 8080:80 -v "$work/later:/page:ro" coffer-test/busybox sh -c 'httpd -h /page -p 80; echo ready; exec sleep 1000000' >/dev/null
DOCKER_HOST=$(host "$two") prints page ready
same other "$("$dockerd" netns "$two" -- busybox wget -qO- http://127.0.0.1:8080/)"
same hello "$("$dockerd" netns "$one" -- busybox wget -qO- http://127.0.0.1:8080/)"

step "restart, power loss, kill -9: containers are kept and can be started again"
docker run -d --name told coffer-test/static sleep >/dev/null
prints told ready
"$dockerd" restart "$one"
[ "$("$dockerd" pid "$one")" != "$pid" ] || failed "dockerd was not restarted"
same exited "$(state "$one" told)"
same 0 "$(docker inspect -f '{{.State.ExitCode}}' told)"
docker start told page >/dev/null
shim=$(cat "$one"/run/exec/containerd/daemon/*/moby/"$(docker inspect -f '{{.Id}}' told)"/address)
[ -S "${shim#unix://}" ] || failed "no socket at $shim"
"$dockerd" kill "$one"
[ ! -e "${shim#unix://}" ] || failed "a shim's socket is left"
expect 1 '' "$dockerd" pid "$one"
eventually no_trace "$one" "$(name "$one")"
"$dockerd" start "$one"
same exited "$(state "$one" told)"
[ "$(docker inspect -f '{{.State.ExitCode}}' told)" != 0 ] || failed "a container ended well in a power loss"
docker start told >/dev/null
kill -KILL "$("$dockerd" pid "$one")"
"$dockerd" start "$one"
same exited "$(state "$one" told)"
docker start told page >/dev/null
same running "$(state "$one" told)"

step "an engine that has lost its files in /run is not joined by a second one"
pid=$("$dockerd" pid "$one")
rm -f "$one/run/docker.pid" "$one/run/docker.sock"
same "$pid" "$("$dockerd" pid "$one")"
expect 1 "process $pid is the engine in $one" "$dockerd" start "$one"
"$dockerd" kill "$one"
"$dockerd" start "$one"
docker start told page >/dev/null
same running "$(state "$two" page)"

step "stop: nothing is left, and the other engine does not notice"
docker run -d --restart always --name stubborn coffer-test/static ignore-term >/dev/null
net=$(network "$one")
[ "$(traces "$one" "$(name "$one")" | wc -l)" -gt 5 ] || failed "a running engine has no traces, so none would prove nothing"
[ "$(members "$net")" -gt 1 ] || failed "nobody is in the engine's network"
name=$(name "$one")
"$dockerd" stop "$one"
eventually no_trace "$one" "$name"
same 0 "$(members "$net")"
same other "$("$dockerd" netns "$two" -- busybox wget -qO- http://127.0.0.1:8080/)"
umount -l "$work/later"
"$dockerd" kill "$two"
eventually no_trace "$two" "$(name "$two")"

step "run: the command's environment and exit code, and no engine afterwards"
expect 7 "$(host "$one") 0" "$dockerd" run "$one" -- bash -c 'docker rm -f stubborn >/dev/null; docker ps -q | wc -l
  [ "$DOCKER_HOST" = "$COFFER_TEST_DOCKER" ] && echo "$COFFER_TEST_DOCKER $(docker ps -q | wc -l)"; exit 7'
eventually no_trace "$one" "$name"
echo "all as said"
