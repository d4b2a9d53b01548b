#!/bin/bash
# bad_input_test.sh COFFER: each wrong input gets one clear sentence and a documented exit code, and changes nothing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"

listing() { coffer secrets list -a web -j | jq -c 'map([.name, .digest, .version])'; }
# refused CODE TEXT COMMAND...: and all is as before; one sentence, and perhaps one of remedy.
refused() {
  local code=$1 text=$2 before
  shift 2
  before=$(listing)
  expect_code "$code" "$@"
  says "$text"
  says_not hunter2
  same 1 "$(grep -c '^Error: ' "$OUTPUTS/err")" "error lines"
  [ "$(sed 's/^Error: //' "$OUTPUTS/err" | awk 'length > 600' | wc -l)" = 0 ] || failed "not one sentence"
  same "$before" "$(listing)" "secrets after a refused command"
}
is() { same "$2" "$(coffer run -a web --only "$1" -- sh -c "printf %s \"\$$1\"")" "$1"; }

ok coffer init
no_smoke
ok coffer apps create web
ok coffer secrets set -a web --stage KEPT=before

step "import: what others lose is kept"
long=$(printf '%070000d' 7)
ok coffer secrets import -a web --stage < <(printf '%s\n' "LONG=$long" 'PW=pa#ss' 'URL=https://x/y#frag' "QUOTED='ab#cd'" \
  'export EXPORTED=1' '  # comment=1' 'BLANK="x" ' 'SIMPLE=  x y # comment' 'EMPTY=')
is LONG "$long"
is PW 'pa#ss'
is URL 'https://x/y#frag'
is QUOTED 'ab#cd'
is EXPORTED 1
is BLANK x
is SIMPLE 'x y'
same 9 "$(listing | jq length)"

step "import: refused by line, and nothing is stored"
line() { refused 7 "line $1: $2" coffer secrets import -a web --stage < <(printf "$3"); }
line 2 'expected NAME=VALUE' 'A=1\nhunter2\n'
line 2 'the quote is not closed' 'A=1\nB="\n'
line 2 'the quote is not closed' 'A=1\nB="hunter2\n'
line 1 'the quote is not closed' 'A="""hunter2\nB=1\n'
line 3 'the same name as in line 1' 'A=hunter2\nB=1\nA=hunter2\n'
line 1 "a secret's name has" '1A=hunter2\n'
line 1 "a secret's name has" 'A\0B=hunter2\n'
line 1 '' 'A="x" hunter2\n'
refused 7 'no NAME=VALUE line' coffer secrets import -a web --stage < <(echo '# nothing')
refused 7 '1048576 bytes' coffer secrets import -a web --stage < <(printf 'A=%01048577d\n' 7)
refused 3 'argument 1' coffer secrets import -a web --stage hunter2
refused 7 'not a file' coffer secrets import -a web --stage /

step "values: too large, or not fit for the environment"
refused 7 '1048576 bytes' coffer secrets set -a web --stage A=- < <(head -c 1048577 /dev/zero)
refused 7 'standard input' coffer secrets set -a web --stage A=- B=- <<<x
ok coffer secrets set -a web --stage NUL=- < <(printf 'a\0hunter2')
refused 7 'secret NUL cannot be an environment variable' coffer machine run -a web host -- sleep 1000000
says 'file'
refused 7 'secret NUL' coffer run -a web -- true
# NAME=VALUE of 131,071 bytes is the largest that execve takes.
ok coffer secrets set -a web --stage NUL=- < <(head -c 131067 /dev/zero | tr '\0' x)
ok coffer run -a web --only NUL -- sh -c 'test "${#NUL}" = 131067'
ok coffer secrets set -a web --stage NUL=- < <(head -c 131068 /dev/zero | tr '\0' x)
refused 7 'secret NUL cannot be an environment variable' coffer run -a web --only NUL -- true
ok coffer secrets unset -a web --stage NUL LONG
for i in $(seq 16); do head -c 131000 /dev/zero | tr '\0' x >"big.$i"; big+=(--from-file "BIG_$i=big.$i"); done
ok coffer secrets set -a web --stage "${big[@]}"
rm big.*
expect_code 4 coffer machine run -a web host -- sleep 1000000
says file
same 0 "$(field length machine list -a web)"
ok coffer secrets unset -a web --stage BIG_{1..16}

step "names of secrets, Apps and Machines"
long_name=$(printf '%0256d' 0 | tr 0 A)
for name in '' 1A A-B 'A B' ' A' É "$long_name" COFFER_X $'A\nB' A.B '*'; do
  refused 7 'argument 1' coffer secrets set -a web --stage "$name=hunter2"
  [ -z "$name" ] || refused 7 'argument 1' coffer secrets unset -a web --stage "$name"
done
refused 7 'argument 2' coffer secrets set -a web --stage A=1 '1A=hunter2'
ok coffer secrets set -a web --stage "${long_name%A}=1" 'A=B=1'
is A B=1
ok coffer secrets unset -a web --stage "${long_name%A}" A
for app in ../etc a/b . .. a%2fb wеb WEB a_b -a- a- "$(printf '%0300d' 0)" "$(printf '%064d' 0)" 'a b' $'a\nb'; do
  case $app in -*) ;; *) refused 7 'name' coffer apps create "$app" ;; esac
  refused 7 'name' coffer secrets list --app="$app"
  refused 7 'name' env COFFER_APP="$app" coffer secrets list
done
refused 2 'coffer apps create' coffer apps create -- web
refused 7 'name' coffer apps create ''
refused 2 '' coffer apps create
refused 7 'no App' coffer secrets list
refused 3 'App nope' coffer secrets list -a nope
refused 3 'nope' coffer machine status -a web nope
same '["web"]' "$(field 'map(.name) | tostring' apps list)"
refused 7 '--name' coffer machine run -a web --name ../x host -- true

step "places and modes of files"
path() { # PATH TEXT
  refused 7 "$2" coffer machine run -a web --file "$1=KEPT" host -- true
  (umask 077; jq -rn --arg p "$1" '"[[files]]\nguest_path = \($p | tojson)\nsecret_name = \"KEPT\""' >bad.toml)
  refused 7 "$2" coffer machine run -a web -c bad.toml host -- true
}
path relative absolute
path /a/../b '..'
path /a//b '//'
path / '/'
path /a:b ':'
path /a,b ','
path $'/a\nb' control
path "/$(printf '%04095d' 0)" 4095
path /proc/x /proc
path /sys/x /sys
path /dev/x /dev
path /.coffer/x /.coffer
path '' absolute
refused 7 'twice' coffer machine run -a web --file /x/a=KEPT --file /x/a=KEPT host -- true
refused 7 '/x/a' coffer machine run -a web --file /x/a=KEPT --file /x/a/b=KEPT host -- true
for mode in 04755 01777 -1 01000 8 rw ''; do
  refused 7 '--file 1' coffer machine run -a web --file "/x/a=KEPT:$mode" host -- true
done
[ ! -e /x ] || failed "a refused file left its folder"
refused 3 'bad.toml.none' coffer machine run -a web -c bad.toml.none host -- true
printf 'not = [toml hunter2' >bad.toml
refused 7 'bad.toml:1' coffer machine run -a web -c bad.toml host -- true
printf '[env]\nA = ["hunter2"]\n' >bad.toml
refused 7 'bad.toml:2' coffer machine run -a web -c bad.toml host -- true

step "what a Machine is given: by option and position"
given() { # TEXT OPTION...
  local text=$1
  shift
  refused 7 "$text" coffer machine run -a web "$@" host -- true
}
given '-p 1: expected' -p 80/hunter2
given '-p 1: a port is a number from 1 to 65535' -p hunter2
given '-p 2: a port is a number from 1 to 65535' -p 80 -p 70000:80
given '-p 1: the address is no IPv4 address' -p hunter2:80:80
given '-p 2: port 8080 of the host is given twice' -p 8080:80 -p 8080:81
given '-v 1: expected SRC:DST[:ro]' -v hunter2
given '-v 1: the source is an absolute path, or the name of a volume' -v ./hunter2:/data
given '-v 2: a path in a Machine must be absolute' -v data:/data -v data:hunter2
given '-v 1: a path in a Machine must not be below /proc' -v data:/proc/x
given 'the mount at /data and the file /data/key' -v data:/data --file /data/key=KEPT
given 'the mounts at /data and /data/x' -v data:/data -v other:/data/x
given '--cap-drop 2: expected a capability' --cap-drop ALL --cap-drop 'hunter2!'
given "--network: a network's name" --network 'hunter2/'
given '--memory: expected a number of bytes' --memory hunter2
given '--memory: expected a number of bytes' --memory ''
given '--memory: memory is at least 6 MiB' --memory 1m
given '--restart: expected no, on-failure or always' --restart hunter2
given '--stop-signal: expected a signal' --stop-signal 'hunter2!'
given '--stop-timeout: expected a number of seconds' --stop-timeout hunter2
given '--stop-timeout: expected a number of seconds' --stop-timeout 0
given '--entrypoint: a quote is not closed' --entrypoint "'hunter2"
given '--entrypoint: no command' --entrypoint ''
# What this runtime has not is refused by it, and nothing is left.
given 'leave out --publish' -p 8080:80
given 'leave out --volume' -v data:/data
given 'leave out --network' --network host
given 'leave out --read-only' --read-only
given 'leave out --cap-drop' --cap-drop ALL
given 'leave out --memory' --memory 64m
given "signal 'SIGHUNTER' is not known" --stop-signal hunter
same 0 "$(field length machine list -a web)"

step "usage"
for words in '' 'hunter2' '--frob=hunter2' '-x' 'secrets' 'secrets hunter2' 'secrets list --frob=hunter2' 'secrets list hunter2' \
  'secrets set --frob=hunter2' 'secrets unset' 'secrets unset --hunter2' 'secrets import a b' 'secrets import --frob hunter2' \
  'machine' 'machine run --frob=hunter2 host' 'machine list hunter2' 'machine status' 'machine status a b' \
  'machine logs -n hunter2 a' 'machine wait x' 'machine stop --frob=hunter2 x' 'machine exec' 'apps hunter2' 'apps list hunter2' \
  'apps destroy' 'plugin info' 'vault migrate' 'vault hunter2' 'keys hunter2' 'init hunter2' 'doctor hunter2' 'run --frob=hunter2' \
  'secrets set -- A=hunter2' 'secrets list -a'; do
  refused 2 'See `coffer' coffer $words
done
refused 7 'no image was given' coffer machine run -a web -- true
refused 7 'no image was given' coffer machine run -a web '' -- true
refused 7 'no command' coffer run -a web
refused 7 'no command' coffer machine exec -a web x
refused 7 'no secret was given' coffer secrets set -a web
refused 7 'terminal' setsid coffer secrets set -a web hunter
refused 7 '--state' coffer machine wait -a web x --state hunter2
COFFER_HOME=$WORK/none expect_code 4 coffer secrets list -a web
says 'coffer init'
# Options in any place and form: the value is the value, and not in the arguments any more.
for form in '-j -a web secrets set' '-ja web secrets set' 'secrets -a web set -j' 'secrets set -aweb -jq' '--app=web -q secrets set' \
  '--app web secrets --json set'; do
  ok coffer $form --stage "FORM=${form}=-"
  is FORM "${form}=-"
done
mkfifo value
coffer secrets set -a web --stage FORM=hunter2 --from-file OTHER=value &
pid=$!
exec {writer}>value
grep -qa 'FORM=' "/proc/$pid/cmdline" || failed "this is not the process"
if grep -qa hunter2 "/proc/$pid/cmdline"; then failed "the value is in the command line"; fi
exec {writer}>&-
wait "$pid"
is FORM hunter2
ok coffer secrets unset -a web --stage FORM OTHER

step "init: which runtime"
for runtime in hunter2 Docker; do
  COFFER_HOME=$WORK/other expect_code 7 coffer init --runtime "$runtime"
  says '--runtime is process or docker'
  says_not hunter2
done
COFFER_HOME=$WORK/other DOCKER_HOST='unix:///a"b' expect_code 7 coffer init --runtime docker
says DOCKER_HOST
[ ! -e "$WORK/other" ] || failed "a refused init left its folder"
endpoint() { # DOCKER_HOST ENDPOINT
  COFFER_HOME=$WORK/other DOCKER_HOST=$1 ok coffer init --runtime docker
  grep -A1 -xF 'plugin = "runtime-docker"' "$WORK/other/engine.toml" | grep -xF "endpoint = \"$2\"" >/dev/null ||
    failed "endpoint with DOCKER_HOST=$1"
  rm -r "$WORK/other"
}
endpoint '' unix:///var/run/docker.sock
endpoint tcp://192.0.2.1:2375 unix:///var/run/docker.sock
endpoint unix:///run/user/1000/docker.sock unix:///run/user/1000/docker.sock

step "engine.toml"
cp -p "$COFFER_HOME/engine.toml" engine.good
engine() { # CODE TEXT SED-SCRIPT: with engine.toml changed
  sed "$3" engine.good >"$COFFER_HOME/engine.toml"
  expect_code "$1" coffer secrets list -a web
  says "$2"
  says_not hunter2
  same 1 "$(grep -c '^Error: ' "$OUTPUTS/err")" "error lines"
  cp -p engine.good "$COFFER_HOME/engine.toml"
}
engine 7 'engine.toml:5' '5s/.*/hunter2 = = 1/'
engine 7 'did you mean' 's/^\[storage\]/[storge]/'
engine 7 'storage-sqlite' 's/^plugin = "storage-sqlite"/&\nfrob = "x"/'
engine 7 "'plugin' is missing" '/^plugin = "storage-/d'
engine 7 "'plugin' must be" 's/^plugin = "storage-sqlite"/plugin = "..\/x"/'
engine 3 'no file' 's/^plugin = "storage-sqlite"/plugin = "storage-none"/'
engine 3 'no file' 's/^plugin = "storage-sqlite"/plugin = "\/none\/x.so"/'
engine 7 'sha256' 's/^plugin = "storage-sqlite"/&\nsha256 = "hunter2"/'
engine 5 'pin' "s/^plugin = \"storage-sqlite\"/&\nsha256 = \"$(printf '%064d' 0)\"/"
engine 7 'storage' 's/^plugin = "storage-sqlite"/plugin = "kms-local"/'
chmod g+w "$COFFER_HOME/engine.toml"
expect_code 5 coffer secrets list -a web
says 'chmod go-w'
rm "$COFFER_HOME/engine.toml" && mkdir "$COFFER_HOME/engine.toml"
expect_code 7 coffer secrets list -a web
rmdir "$COFFER_HOME/engine.toml" && mkfifo "$COFFER_HOME/engine.toml"
expect_code 7 timeout 20 coffer secrets list -a web
rm "$COFFER_HOME/engine.toml" && cp -p engine.good "$COFFER_HOME/engine.toml"

step "plugins that anybody could change"
mkdir mine
cp "$(field 'map(.file | select(endswith("/storage-sqlite.so")))[0]' plugin list)" mine
plugin() { # CODE TEXT
  sed "s|^plugin = \"storage-sqlite\"|plugin = \"$WORK/mine/storage-sqlite.so\"\npath = \"vault.db\"|" engine.good >"$COFFER_HOME/engine.toml"
  expect_code "$1" coffer secrets list -a web
  says "$2"
  cp -p engine.good "$COFFER_HOME/engine.toml"
}
plugin 0 KEPT
chmod o+w mine/storage-sqlite.so
plugin 5 'writable by others'
chmod o-w,g+w mine/storage-sqlite.so && chgrp 65534 mine/storage-sqlite.so
plugin 5 'writable by its group'
chmod g-w mine/storage-sqlite.so && chown 65534 mine/storage-sqlite.so
plugin 5 'belongs to user 65534'
chown 0:0 mine/storage-sqlite.so && chmod o+w mine
plugin 5 'writable by others'
chmod o-w mine && echo 'no library' >mine/storage-sqlite.so
plugin 4 storage-sqlite.so

step "files of the home that are missing, or something else"
ways='nothing symlink fifo folder device empty'
instead() { # FILE COMMAND...: with FILE moved away and replaced in each way, the command fails and changes nothing
  local file=$COFFER_HOME/$1 way code
  shift
  mv "$file" kept
  for way in $ways; do
    case $way in
      symlink) ln -s "$WORK/kept" "$file" ;;
      fifo) mkfifo "$file" ;;
      folder) mkdir "$file" ;;
      device) mknod "$file" c 1 3 2>/dev/null || continue ;;
      empty) (umask 077; : >"$file") ;;
    esac
    code=0
    timeout 20 "$@" >"$OUTPUTS/out" 2>"$OUTPUTS/err" </dev/null || code=$?
    case $code in 1 | 3 | 4 | 5 | 6 | 7) ;; *) failed "${file##*/} as $way: exit code $code" ;; esac
    same 1 "$(grep -c '^Error: ' "$OUTPUTS/err")" "error lines for ${file##*/} as $way"
    rm -rf "$file"
  done
  mv kept "$file"
}
ok coffer machine run -a web --name one host -- sleep 1000000
before=$(listing)
for file in api/writer.key api/digest.key host/host.key pins/writers pins/identity; do
  instead "$file" coffer secrets set -a web --stage CHANGED=1
  same "$before" "$(listing)" "after $file was something else"
done
ways='symlink fifo folder device' instead client/seen coffer secrets set -a web --stage CHANGED=1
same "$before" "$(listing)" "after client/seen was something else"
instead kms/kek coffer run -a web -- true
same "$before" "$(listing)" "after the KEK was something else"
sqlite3 "$COFFER_HOME/vault.db" 'pragma wal_checkpoint(truncate)' >/dev/null
instead vault.db coffer secrets set -a web --stage CHANGED=1
same "$before" "$(listing)" "after vault.db was something else"
chmod 644 "$COFFER_HOME/api/writer.key"
expect_code 5 coffer secrets list -a web
says 'chmod'
chmod 400 "$COFFER_HOME/api/writer.key"
chmod 777 "$COFFER_HOME"
expect_code 4 coffer secrets list -a web
says "$COFFER_HOME"
chmod 700 "$COFFER_HOME"
chown 65534 "$COFFER_HOME/vault.db"
expect_code 4 coffer secrets list -a web
chown 0 "$COFFER_HOME/vault.db"
same "$before" "$(listing)"

step "a read-only file system"
if mount --bind "$COFFER_HOME" "$COFFER_HOME" 2>/dev/null; then
  mount -o remount,bind,ro "$COFFER_HOME"
  # The first that cannot be written is the audit log.
  expect_code 6 coffer secrets set -a web --stage CHANGED=1
  says Read-only
  same 1 "$(grep -c '^Error: ' "$OUTPUTS/err")" "error lines"
  umount "$COFFER_HOME"
  same "$before" "$(listing)"
  ok coffer vault check
else
  echo "(cannot mount here: not looked at)"
fi

step "no file descriptor is left"
for limit in $(seq 4 24); do
  code=0
  (ulimit -n "$limit"; exec coffer secrets set -a web --stage "LIMIT=$limit") >"$OUTPUTS/out" 2>"$OUTPUTS/err" || code=$?
  case $code in 0) ;; 1 | 3 | 4 | 5 | 6 | 127) ;; *) failed "exit code $code with $limit descriptors" ;; esac
  [ "$code" != 0 ] || same "$(field '.[] | select(.name == "LIMIT") | .digest' secrets list -a web)" \
    "$(coffer secrets set -a web --stage -q "LIMIT=$limit" >/dev/null; field '.[] | select(.name == "LIMIT") | .digest' secrets list -a web)"
done
same 0 "$code" "with enough of them"
ok coffer vault check

step "a full disk"
for storage in sqlite file; do
  mkdir "full-$storage"
  mount -t tmpfs -o size=2m,mode=0700 coffer-test "$WORK/full-$storage" 2>/dev/null || { echo "(cannot mount here: not looked at)"; break; }
  (
    export COFFER_HOME=$WORK/full-$storage
    ok coffer init --storage "$storage"
    no_smoke
    ok coffer apps create web
    last=0 code=0
    for i in $(seq 400); do
      code=0
      coffer secrets set -a web --stage "N=$i" "FILL_$i=$(printf '%040000d' "$i")" >"$OUTPUTS/out" 2>"$OUTPUTS/err" || code=$?
      [ "$code" = 0 ] || break
      last=$i
    done
    case $code in 1 | 6) ;; *) failed "exit code $code on a full disk" ;; esac
    [ "$last" -gt 0 ] || failed "nothing fit at all"
    same 1 "$(grep -c '^Error: ' "$OUTPUTS/err")" "error lines"
    mount -o remount,size=16m "$COFFER_HOME"
    ok coffer vault check
    # All that was acknowledged is there; the write that failed is there as a whole or not at all.
    now=$(coffer run -a web --only N -- sh -c 'printf %s "$N"')
    case $now in "$last" | "$((last + 1))") ;; *) failed "the value is $now, acknowledged was $last" ;; esac
    same "$((now + 1))" "$(field length secrets list -a web)"
    ok coffer secrets set -a web --stage N=after
    ok coffer apps destroy web -y
  )
done

step "a clock set back by a year"
# A process of which the clock is a year ahead writes; the others live in its past.
if command -v faketime >/dev/null; then
  ok faketime -f +365d coffer secrets set -a web --stage AHEAD=1
  ok coffer secrets set -a web --stage NOW=1
  ok coffer machine restart -a web one
  ok coffer secrets list -a web
  says '0s ago'
  ok coffer vault check
else
  echo "(no faketime here: not looked at)"
fi
ok coffer apps destroy web -y
echo passed
