#!/usr/bin/env bash
# keys_test.sh COFFER STORAGE: keys are rotated and wrapped anew, vaults backed up and restored, with Machines running.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
storage=$2

app='echo "up $COFFER_MACHINE_ID"; trap "exit 0" TERM; while :; do sleep 0.1; done'
run_machine() { ok coffer machine run -q -a "$1" host --name "$2" -- sh -c "$app"; }
has() { # APP MACHINE NAME VALUE.  Not by `ok`, whose outputs are searched for values.
  [ "$(coffer machine exec -a "$1" "$2" -- printenv "$3")" = "$4" ] || failed "$3 of Machine $2"
}
epoch() { field ".[] | select(.app == \"$1\") | .epoch" keys list; }
old_epochs() { field ".[] | select(.app == \"$1\") | .old_epochs | join(\",\")" keys list; }

ok coffer init --storage "$storage"
no_smoke
one=$(canary)
two=$(canary)
ok coffer apps create web
ok coffer apps create other
ok coffer secrets set -a web "ONE=$one" TWO=2
ok coffer secrets set -a other "ONE=$one"
run_machine web w1
run_machine web w2

step "rotate"
ok coffer secrets list -a web -j
cp "$OUTPUTS/out" "$WORK/before"
ok coffer keys rotate -a web
says "epoch 2"
says "kept until"
ok coffer secrets list -a web -j
cmp -s "$OUTPUTS/out" "$WORK/before" || failed "names, digests, versions or times have changed"
same "$(epoch web)" 2
same "$(old_epochs web)" 1
same "$(epoch other)" 1
grep -q "^web [0-9a-f]* 2$" "$COFFER_HOME/client/seen" || failed "the client did not see epoch 2"
has web w1 ONE "$one"
ok coffer machine restart -a web w1
has web w1 ONE "$one"
ok coffer secrets set -a web --stage "ONE=$one"
says "Unchanged"
ok coffer keys rotate -a web -j
json '.[0].from == 2 and .[0].epoch == 3 and .[0].secrets == 2 and .[0].release == null'

step "rotate --now"
ok coffer keys rotate -a web --now
says "Machine w1"
says_not "is kept"
same "$(epoch web)" 4
same "$(old_epochs web)" ""
has web w1 ONE "$one"
has web w2 TWO 2
ok coffer vault check
ok coffer machine restart -a web w2
ok coffer secrets set -a web "TWO=$two"
has web w2 TWO "$two"

step "a vault of before a rotation is refused"
cp "$COFFER_HOME/client/seen" "$WORK/seen"
sed -i 's/^\(web [0-9a-f]*\) 4$/\1 9/' "$COFFER_HOME/client/seen"
expect_code 1 coffer secrets list -a web
says "epoch 9 has been seen"
cp "$WORK/seen" "$COFFER_HOME/client/seen"

step "every App, where none is named"
ok coffer keys rotate
says "App other"
same "$(epoch other)" 2
same "$(epoch web)" 5
expect_code 3 coffer keys rotate -a nobody
expect_code 2 coffer keys rotate -a web extra

step "rewrap"
ok coffer keys rewrap
has web w1 ONE "$one"
ok coffer machine restart -a web w1
has web w1 ONE "$one"
ok coffer keys rewrap -j
json '.rewrapped'
ok coffer secrets set -a web THREE=3
has web w1 THREE 3
ok coffer doctor

step "writers do not notice"
(for i in $(seq 8); do coffer secrets set -q -a other "N=$i" "N$i=$i" >/dev/null 2>"$WORK/writer.err" || exit 1; done) &
writer=$!
for _ in 1 2 3; do
  ok coffer keys rotate -a other
  ok coffer keys rewrap
  ok coffer vault backup --force "$WORK/busy"
done
wait "$writer" || failed "a writer failed: $(cat "$WORK/writer.err")"
same "$(field 'length' secrets list -a other)" 10
ok coffer vault check

step "backup"
ok coffer vault backup "$WORK/backup"
says "Backed up 2 Apps"
same "$(stat -c %a "$WORK/backup")" 600
expect_code 4 coffer vault backup "$WORK/backup"
ok coffer vault backup --force "$WORK/backup" -j
json '.apps == 2 and .bytes > 1000'
expect_code 3 coffer vault backup "$WORK/no/such/folder"
expect_code 7 coffer vault backup --force "$WORK"
[ -z "$(find "$WORK" -maxdepth 1 -name 'backup.*')" ] || failed "a temporary file is left"
mkdir "$WORK/look"
cp "$WORK/backup" "$WORK/look"
nowhere "$one" "$WORK/look"
hex_of() { od -An -v -tx1 "$1" | tr -d ' \n'; }
hex_of "$WORK/backup" >"$WORK/backup.hex"
for key in api/writer.key api/digest.key host/host.key; do
  hex_of "$COFFER_HOME/$key" >"$WORK/key.hex"
  if grep -qf "$WORK/key.hex" "$WORK/backup.hex"; then failed "$key is in the backup"; fi
  grep -qf "$WORK/key.hex" "$WORK/key.hex" || failed "the search finds nothing"
done

step "restore: what is refused"
expect_code 4 coffer vault restore "$WORK/backup"
says "holds Apps already"
head -c 3000 "$WORK/backup" >"$WORK/cut"
expect_code 1 coffer vault restore --force "$WORK/cut"
says "cut"
says "changed or cut off"
echo "no backup at all" >"$WORK/text"
expect_code 7 coffer vault restore --force "$WORK/text"
expect_code 3 coffer vault restore --force "$WORK/none"
ok coffer vault check
has web w1 ONE "$one"
export COFFER_HOME=$WORK/another
ok coffer init --storage "$storage"
no_smoke
expect_code 5 coffer vault restore "$WORK/backup"
says "another KMS key"
ok coffer apps list
says "No Apps yet"

step "restore into a new home"
old=$WORK/home
export COFFER_HOME=$WORK/new
mkdir -m 700 "$COFFER_HOME"
cp -a "$old/kms" "$COFFER_HOME/kms"
ok coffer init --storage "$storage"
no_smoke
ok coffer vault restore "$WORK/backup"
says "web: version"
ok coffer vault check
ok coffer doctor
same "$(field '.[] | select(.name == "w1") | .state' machine list -a web)" created
ok coffer machine start -q -a web w1
has web w1 ONE "$one"
has web w1 THREE 3
ok coffer secrets set -a web FOUR=4
has web w1 FOUR 4
ok coffer keys rotate -a web --now
ok coffer machine destroy -a web w1 --force
ok coffer machine destroy -a web w2 --force
ok coffer vault check

step "restore over a home in use"
export COFFER_HOME=$old
version=$(field '[.[].version] | max' secrets list -a web)
for i in 1 2 3; do ok coffer secrets set -a web "LATER=$i"; done
run_machine web late
ok coffer vault restore --force -j "$WORK/backup"
json '.machines_ended == 3 and ([.apps[].name] == ["other","web"])'
[ -z "$(processes_of "$old/machines")" ] || failed "a Machine is left"
same "$(field '[.[].version] | max' secrets list -a web)" "$version"
same "$(field '[.[] | select(.name == "LATER")] | length' secrets list -a web)" 0
ok coffer machine list -a web
says_not "late"
ok coffer machine start -q -a web w1
has web w1 ONE "$one"
ok coffer secrets set -a web LATER=again
has web w1 LATER again
ok coffer vault check

step "a restore that was cut off is done again, and nothing else before"
echo >"$COFFER_HOME/restore.pending"
expect_code 4 coffer secrets list -a web
says "was cut off"
expect_code 4 coffer machine list -a web
ok coffer vault restore "$WORK/backup"
ok coffer machine start -q -a web w1
has web w1 ONE "$one"
ok coffer vault check
nowhere "$one" "$COFFER_HOME"
