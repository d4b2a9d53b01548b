#!/bin/bash
# registry_test.sh COFFER: images are pulled from a registry with the credentials of `docker login`, and pinned.
set -euo pipefail
. "$(dirname "$0")/../script/lib.sh"
begin "$1"
command -v docker-registry >/dev/null || { echo "skipped: no docker-registry here"; exit 77; }
[ "$(id -u)" = 0 ] || { echo "skipped: a registry beside the engine needs root"; exit 77; }

netns=${COFFER_TEST_DOCKER_NETNS:-/proc/self/ns/net}
password=not-so-secret-$RANDOM$RANDOM
mkdir registry
printf %s "$password" | htpasswd -i -B -c registry/htpasswd user 2>/dev/null
cat >registry/config.yml <<END
version: 0.1
storage: {filesystem: {rootdirectory: $WORK/registry/data}}
http: {addr: "127.0.0.1:0"}
auth: {htpasswd: {realm: test, path: $WORK/registry/htpasswd}}
log: {accesslog: {disabled: true}}
END
nsenter --net="$netns" -- docker-registry serve registry/config.yml >registry/log 2>&1 &
registry=$!
stop_registry() {
  local code=$?
  kill "$registry" 2>/dev/null || true
  docker image rm -f "$image" "$image-other" >/dev/null 2>&1 || true
  (exit "$code")
  end_of_test
}
trap stop_registry EXIT
listens() { grep -oE 'listening on 127.0.0.1:[0-9]+' registry/log >registry/port; }
image=none
eventually 20 listens
host=127.0.0.1:$(grep -oE '[0-9]+$' registry/port)
image=$host/team/app:1
export DOCKER_CONFIG=$WORK/docker
# The engine's client is not in the engine's network; the engine itself is.
docker tag coffer-test/busybox "$image"
printf %s "$password" | docker login "$host" -u user --password-stdin >/dev/null 2>&1
docker push -q "$image" >/dev/null
docker image rm "$image" >/dev/null

ok coffer init --runtime docker
no_smoke
ok coffer apps create web

step "an image that is not here: said, not pulled"
expect_code 3 coffer machine run -a web "$image" -- sleep 1000
says "docker pull $image"
same 0 "$(field length machine list -a web)" "Machines"

step "pulled with progress, and pinned"
ok coffer machine run -a web --name one --pull -j "$image" -- sleep 1000
json --arg i "$image" '.image == $i and .state == "started"'
ok coffer machine run -a web --name two --pull "$image" -- sleep 1000
grep -qi pull "$OUTPUTS/err" || failed "no progress"
pinned() {
  local id
  id=$(field ".[] | select(.name == \"$1\") | .id" machine list -a web)
  docker inspect -f '{{.Config.Image}}' "$(docker ps -q --filter "label=coffer.machine=$id")"
}
digest=$(pinned one)
case $digest in "$host/team/app@sha256:"*) ;; *) failed "not pinned: $digest" ;; esac

step "a name that moves changes nothing until it is asked for"
docker tag coffer-test/health "$image"
docker push -q "$image" >/dev/null
ok coffer secrets set -a web A=1
same "$digest" "$(pinned one)" "the image of a Machine after a set"
ok coffer machine run -a web --name three --pull "$image" -- sleep 1000
different "$digest" "$(pinned three)" "the image that --pull found"

step "without credentials, and of what there is not"
docker logout "$host" >/dev/null 2>&1
expect_code 5 coffer machine run -a web --pull "$image" -- sleep 1000
says "docker login $host"
printf %s "$password" | docker login "$host" -u user --password-stdin >/dev/null 2>&1
expect_code 3 coffer machine run -a web --pull "$host/team/nothing:1" -- sleep 1000
says "team/nothing"
kill "$registry"
wait "$registry" 2>/dev/null || true
expect_code 6 coffer machine run -a web --pull "$image" -- sleep 1000
says "cannot be pulled"
nowhere "$password" "$COFFER_HOME"
echo passed
