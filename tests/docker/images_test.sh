#!/bin/bash
# images_test.sh COFFER: images, options and engines that are hard: each Machine runs as its image says, or there is one
# clear sentence and nothing is left.
set -euo pipefail
. "$(dirname "$0")/../script/lib.sh"
[ "$(id -u)" = 0 ] || { echo "skipped: needs root, for an engine of its own"; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
begin "$1"
# An engine of this test alone, on a disk of its own that can be full.
dockerd=$here/../../scripts/dockerd
engine=$WORK/engine
files=docker-$(printf %s "unix://$("$dockerd" socket "$engine")" | sha1sum | cut -c1-12)
at_end() {
  "$dockerd" stop "$engine"
  umount "$engine" 2>/dev/null
  rm -rf "/dev/shm/coffer-$user" "/run/coffer/${files:?}"
}
user=61234 # nobody's number
mkdir "$engine"
truncate -s 256M disk
mkfs.ext4 -q disk && mount -o loop disk "$engine" || echo "(no disk of its own: a full one is not looked at)"
"$dockerd" start "$engine"
socket=$("$dockerd" socket "$engine")
export DOCKER_HOST=unix://$socket
unset DOCKER_CONTEXT
COFFER_TEST_DOCKER=$DOCKER_HOST "$here/images"

# What there is of Machines: containers, volumes, file secrets, notes.
there() {
  docker ps -aq --no-trunc
  docker volume ls -q
  find "/run/coffer/$files" -mindepth 1 2>/dev/null
  find "$COFFER_HOME/machines" -mindepth 1 2>/dev/null || true # it is not there before the first Machine
}
# refused CODE SENTENCE COMMAND...: and all is as before.
refused() {
  local before
  before=$(there)
  expect_code "$1" "${@:3}"
  says "$2"
  same 1 "$(grep -c ^Error: "$OUTPUTS/err")" "sentences"
  same "$before" "$(there)" "what is there"
}
run() { coffer machine run -a web "$@"; }
container() { docker ps -aqf "label=coffer.machine=$(field .id machine status -a web "$1")"; }
inspected() { docker inspect -f "$2" "$(container "$1")"; }
# prints NAME TEXT ARGUMENT...: what a Machine prints that ends by itself; it is destroyed.
prints() {
  ok run --name "$1" "${@:3}"
  ok coffer machine wait -a web "$1" --state stopped --timeout 30
  ok coffer machine logs -a web "$1"
  same "$2" "$(out)" "what $1 prints"
  ok coffer machine destroy -a web "$1"
}
state() { field .state machine status -a web "$1"; }
machine_is() { [ "$(state "$1")" = "$2" ]; }

ok coffer init --runtime docker
no_smoke
ok coffer apps create web
empty=$(there)

step "an image with nothing but one program"
ok coffer secrets set -a web --stage NAME=value TOKEN=token HEALTH_TOKEN=x
secret=(--file /run/secret=TOKEN)
ok run --name static "${secret[@]}" coffer-test/static
same /app "$(readlink "/proc/$(inspected static '{{.State.Pid}}')/exe")" "the first process"
ok coffer machine exec -a web static -- /app env NAME
same value "$(out)"
ok coffer machine stop -a web static
ok coffer machine logs -a web static
says 'got TERM'
ok coffer machine status -a web static -j
json '.state == "stopped" and .exit_code == 0'
ok coffer machine destroy -a web static
same "$empty" "$(there)"
prints pid 1 coffer-test/static -- pid

step "users, read-only, no capabilities"
for options in "" --read-only "--cap-drop ALL" "--read-only --cap-drop ALL"; do
  prints hard token $options "${secret[@]}" coffer-test/user65532 -- file /run/secret
  prints hard value $options "${secret[@]}" coffer-test/static -- env NAME
done
prints root token --read-only --cap-drop ALL "${secret[@]}" coffer-test/static -- file /run/secret
prints ids 65532:0 coffer-test/user65532 -- ids
ok run --name user "${secret[@]}" coffer-test/user65532
same "65532:0 400" "$(stat -c '%u:%g %a' "/run/coffer/$files"/*/0)" "the file secret"
ok coffer machine exec -a web user -- /app ids
same 65532:0 "$(out)"
ok coffer machine destroy -a web user --force
prints named "app app" --user app "${secret[@]}" coffer-test/busybox -- stat -c '%U %G' /run/secret

step "health checks see the secrets"
ok run --name health coffer-test/health
ok coffer apps create bare
ok coffer machine run -a bare --name health coffer-test/health
health() { [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = "$2" ]; }
eventually 30 health "$(container health)" healthy
eventually 30 health "$(docker ps -qf "label=coffer.app=$(field '.[] | select(.name == "bare") | .id' apps list)")" unhealthy
ok coffer machine destroy -a web health --force
ok coffer apps destroy bare -y

step "images that cannot run"
refused 7 'neither an entrypoint nor a command' run coffer-test/noentry
prints command hello coffer-test/noentry -- echo hello
refused 4 'coffer-test/arm64 is built for arm64' run coffer-test/arm64
refused 3 'docker pull coffer-test/none' run coffer-test/none
refused 1 '/no/such: not found in the image' run coffer-test/busybox -- /no/such
refused 1 "nosuch: not found in the image's PATH" run coffer-test/busybox -- nosuch
refused 1 '/etc/passwd: Permission denied' run coffer-test/busybox -- /etc/passwd
refused 1 '/etc: is a folder' run coffer-test/busybox -- /etc
refused 7 "no user 'nosuch'" run --user nosuch "${secret[@]}" coffer-test/busybox -- true

step "environments"
big() { coffer secrets set -a web --stage "$1=-" < <(head -c "$2" /dev/zero | tr '\0' x); }
ok big B 131069
prints big 131069 coffer-test/busybox -- sh -c 'echo ${#B}'
ok big B 131070
refused 7 'secret B' run coffer-test/busybox -- true
says file
ok coffer secrets unset -a web --stage B
for i in $(seq 17); do ok big "B$i" 125000; done
refused 4 'more than an environment can hold' run coffer-test/busybox -- true
says 'as files'
for i in $(seq 17); do echo "--file /run/b/$i=B$i"; done >arguments
prints files 2125000 $(cat arguments) coffer-test/busybox -- sh -c 'cat /run/b/* | wc -c'
ok coffer secrets unset -a web --stage $(seq -f B%g 17)

step "ports"
ok run --name one -p 127.0.0.1:8080:80 coffer-test/static
refused 1 'port' run --name two -p 127.0.0.1:8080:80 coffer-test/static
says '-p'
ok coffer machine stop -a web one
ok run --name two -p 127.0.0.1:8080:80 coffer-test/static
expect_code 1 coffer machine start -a web one
says port
same started "$(state two)"
ok coffer machine destroy -a web two --force
ok coffer machine start -a web one
ok coffer machine destroy -a web one --force
same "$empty" "$(there)"

step "stubborn, paused, killed, out of memory"
ok run --name stays --stop-timeout 1s coffer-test/static -- ignore-term
ok timeout 20 coffer machine stop -a web stays
same stopped "$(state stays)"
ok coffer machine start -a web stays
docker pause "$(container stays)" >/dev/null
expect_code 4 coffer machine exec -a web stays -- /app pid
says 'docker unpause'
ok timeout 20 coffer machine stop -a web stays
ok coffer machine destroy -a web stays
ok run --name killed coffer-test/static
docker kill "$(container killed)" >/dev/null
eventually 10 machine_is killed failed
ok coffer machine destroy -a web killed
ok run --name hungry --memory 16m coffer-test/busybox -- sh -c 'x=$(head -c 100000000 /dev/zero | tr "\0" x)'
ok coffer machine wait -a web hungry --state failed --timeout 30
ok coffer machine status -a web hungry
says 'out of memory'
ok coffer machine destroy -a web hungry
same "$empty" "$(there)"

step "killed in the middle of a boot"
for _ in 1 2 3; do
  exec {starts}< <(exec docker events --since "$(date +%s.%N)" --filter event=start --format '{{.ID}}')
  listener=$!
  run --name killed "${secret[@]}" coffer-test/static >"$OUTPUTS/out" 2>"$OUTPUTS/err" &
  boot=$!
  read -r id <&"$starts"
  docker kill "$id" >/dev/null
  kill "$listener"
  exec {starts}<&-
  code=0
  wait "$boot" || code=$?
  # Either it was started and has failed since, or it is not there.
  case $code in
    0) eventually 10 machine_is killed failed && ok coffer machine destroy -a web killed ;;
    *) grep -q ^Error: "$OUTPUTS/err" || failed "no sentence" ;;
  esac
  same "$empty" "$(there)"
done

step "volumes"
ok run --name data -v data:/data "${secret[@]}" coffer-test/volume -- sleep 1000000
says_not 'keeps data'
ok coffer machine exec -a web data -- sh -c 'echo kept >/data/file'
ok coffer secrets set -a web NAME=changed
ok coffer machine exec -a web data -- cat /data/file
same kept "$(out)"
ok coffer machine destroy -a web data --force
same data "$(docker volume ls -q)"
docker volume rm data >/dev/null
ok run --name lost coffer-test/volume -- sleep 1000000
says 'keeps data in /data: without -v NAME:/data it is lost'
ok coffer machine destroy -a web lost --force
same "$empty" "$(there)"

step "no engine"
endpoint() { sed "s|^endpoint = .*|endpoint = \"unix://$1\"|" "$COFFER_HOME/engine.toml" >"$COFFER_HOME/other.toml" && chmod 600 "$COFFER_HOME/other.toml"; }
endpoint "$WORK/none.sock"
refused 6 "no Docker engine answers at unix://$WORK/none.sock" coffer machine run -a web --engine "$COFFER_HOME/other.toml" coffer-test/static
same 2 "$(err | grep -c .)" "lines: a sentence and a remedy"
rm "$COFFER_HOME/other.toml"

step "a user who is not root"
chmod 755 "$WORK"
home=$WORK/user
chown "$user:$user" "$home"
as_user() { setpriv --reuid "$user" --regid "$user" --groups "$1" env -u XDG_RUNTIME_DIR COFFER_HOME="$home/coffer" "${@:2}"; }
if as_user "$user" coffer --version >/dev/null 2>&1; then
  ok as_user "$user" coffer init --runtime docker
  ok as_user "$user" coffer apps create web
  ok as_user "$user" coffer secrets set -a web --stage TOKEN=token NAME=value
  expect_code 5 as_user "$user" coffer machine run -a web coffer-test/static
  says 'Join the group'
  # In the group that the socket belongs to: files are readable for all in the Machine, below a folder of the user's own.
  group=$(stat -c %g "$socket")
  ok as_user "$group" coffer machine run -a web --name one "${secret[@]}" coffer-test/user65532
  says 'file secrets are readable for every user in the container'
  same "$user 444" "$(stat -c '%u %a' "/dev/shm/coffer-$user/$files"/*/0)" "the file secret"
  same "$user 700" "$(stat -c '%u %a' "/dev/shm/coffer-$user")" "its folder"
  ok as_user "$group" coffer machine exec -a web one -- /app file /run/secret
  same token "$(out)"
  ok as_user "$group" coffer machine stop -a web one
  ok as_user "$group" coffer apps destroy web -y
  same "" "$(find "/dev/shm/coffer-$user/$files" -mindepth 1)" "file secrets"
else
  echo "(another user cannot run coffer where it lies: not looked at)"
fi

step "a full disk"
if mountpoint -q "$engine"; then
  fallocate -l "$(df --output=avail -B1 "$engine" | tail -n 1)" "$engine/full" || true
  dd if=/dev/zero of="$engine/full2" bs=4096 2>/dev/null || true
  refused 6 'no space left on device' run --name full "${secret[@]}" coffer-test/static
  says 'docker system df'
  rm "$engine/full" "$engine/full2"
  prints full changed coffer-test/static -- env NAME
fi
ok coffer apps destroy web -y
same "$empty" "$(there)"
echo passed
