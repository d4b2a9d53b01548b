#!/bin/bash
# reload_test.sh COFFER [RUNTIME IMAGE [SERVER_UP]]: new values in files of running Machines, and Machines that a change
# is nothing to.  Counted by instances and by what the apps say of themselves.  With SERVER_UP the daemons do the work.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
runtime=${2:-process}
image=${3:-host}
if [ -n "${4:-}" ]; then
  begin_server "$1" "$4"
  up --runtime "$runtime"
else
  begin "$1"
  ok coffer init --runtime "$runtime"
  no_smoke
fi
ok coffer apps create web
place=/tmp # in each container; or of the host, where each user's Machines may make folders
if [ "$runtime" = process ]; then
  place=$WORK/guest
  chmod 755 "$WORK"
  mkdir -m 777 "$place"
fi
folder=$place/certs quiet=$place/quiet hups=$place/hups up=$place/up

instance() { field ".[] | select(.name == \"$1\") | .instance_id" machine list -a web; }
versions() { field '.[].secrets_version' machine list -a web | sort -u | tr '\n' ' '; }
inside() { coffer machine exec "$1" -- sh -c "$2" </dev/null; }
b64() { printf '%s' "$1" | base64 -w0; } # as files of the App config are
# hups N: the app has got so many signals, as soon as its shell has looked.
hups() { inside web "for i in \$(seq 500); do [ \"\$(cat $hups 2>/dev/null | wc -l)\" -ge $1 ] && break; sleep 0.02; done
  cat $hups 2>/dev/null | wc -l" | grep -qx " *$1" || failed "the app has not got $1 signals"; }

step "an App with files that are reloaded, and a process that has no part in them"
cert=$(canary)1 key=$(canary)2
cat >coffer.toml <<TOML
app = "web"
[build]
image = "$image"
[processes.web]
command = '''sh -c "trap 'echo >>$hups' HUP; touch $up; while :; do sleep 0.05; done"'''
secrets = ["URL"]
[processes.worker]
command = "sleep 1000"
secrets = ["OTHER"]
[[files]]
guest_path = "$folder/cert"
secret_name = "CERT"
reload = "signal:HUP"
processes = ["web"]
[[files]]
guest_path = "$folder/key"
secret_name = "KEY"
reload = "signal:HUP"
processes = ["web"]
[[files]]
guest_path = "$quiet/conf"
secret_name = "CONF"
reload = "none"
processes = ["web"]
[checks.up]
type = "command"
command = "test -e $up"
processes = ["web"]
TOML
ok coffer secrets set --stage CERT="$(b64 "$cert")" KEY="$(b64 "$key")" CONF="$(b64 a-setting)" URL=a-url-value OTHER=another-value
ok coffer deploy
web=$(instance web) worker=$(instance worker)
same "$cert" "$(inside web "cat $folder/cert")"
hups 0

step "a new value comes into the file, and the app is told"
cert=$(canary)3
b64 "$cert" | ok coffer secrets set -a web CERT=-
says "Machine web ("
says "): reloaded"
says "): unchanged"
same "$cert" "$(inside web "cat $folder/cert")"
same "$key" "$(inside web "cat $folder/key")"
hups 1
same "$web $worker" "$(instance web) $(instance worker)" "nothing was booted"
same 1 "$(versions | wc -w)"
same "Deployed" "$(field '[.[].status] | unique | join(" ")' secrets list -a web)"

step "one signal for two files, none where none is wanted"
ok coffer secrets set -a web CERT="$(b64 cert-two)" KEY="$(b64 key-two)"
same "cert-two key-two" "$(inside web "echo \$(cat $folder/cert) \$(cat $folder/key)")"
hups 2
ok coffer secrets set -a web CONF="$(b64 another-setting)"
same another-setting "$(inside web "cat $quiet/conf")"
hups 2
same "$web $worker" "$(instance web) $(instance worker)"

step "what is planned is what is done"
ok coffer secrets set -a web --stage CERT="$(b64 cert-three)" OTHER=other-two
ok coffer secrets plan -a web
says "Machine web ("
says "): reloads"
says "): restarts"
same "reload restart" "$(field '.machines | sort_by(.name) | map(.effect) | join(" ")' secrets plan -a web)"
ok coffer secrets deploy -a web
same "$web" "$(instance web)"
[ "$(instance worker)" != "$worker" ] || failed "the worker still has the old variable"
worker=$(instance worker)

step "a variable takes a new instance, with the newest files"
ok coffer secrets set -a web URL=another-url KEY="$(b64 key-four)"
[ "$(instance web)" != "$web" ] || failed "the variable cannot be new"
web=$(instance web)
same "cert-three key-four" "$(inside web "echo \$(cat $folder/cert) \$(cat $folder/key)")"
same "$worker" "$(instance worker)"

step "secrets go back in place, and a restart is one"
ok coffer secrets set -a web KEY="$(b64 key-five)"
ok coffer secrets rollback -a web
same "key-four" "$(inside web "cat $folder/key")"
same "$web" "$(instance web)"
ok coffer machine restart -a web web
[ "$(instance web)" != "$web" ] || failed "restart is for a new instance"
same "cert-three key-four" "$(inside web "echo \$(cat $folder/cert) \$(cat $folder/key)")"

step "a value that ends the app is taken back"
sed -i "s#echo >>$hups#grep -q good $folder/cert || exit 9#" coffer.toml
printf '\n[deploy]\nsmoke_time = "1s"\n' >>coffer.toml
ok coffer secrets set --stage CERT="$(b64 a-good-one)"
ok coffer deploy
web=$(instance web)
expect_code 1 coffer secrets set -a web CERT="$(b64 a-terrible-one)"
says "ended with exit code 9"
same "a-good-one" "$(inside web "cat $folder/cert")"
same Staged "$(field '.[] | select(.name == "CERT") | .status' secrets list -a web)"
[ -n "${4:-}" ] || ok coffer vault check
ok coffer apps destroy web -y
if [ -n "${4:-}" ]; then nowhere "$cert" "$dir"; else nowhere "$cert" home; fi
