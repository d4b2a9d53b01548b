#!/bin/bash
# terminal_test.sh COFFER: values typed or pasted at a prompt, and standard streams that are closed or full.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
is() { same "$2" "$(coffer run -a web --only "$1" -- sh -c "printf %s \"\$$1\"")" "$1"; }

# at_prompt CODE BYTES NAME: `secrets set NAME` on a terminal of its own, which gets BYTES when it asks.
at_prompt() {
  local want=$1 bytes=$2 name=$3 code=0 keys
  rm -f keys screen
  mkfifo keys
  script -qec "coffer secrets set -a web --stage $name" /dev/null <keys >screen 2>&1 &
  exec {keys}>keys
  eventually 20 grep -q "Value of $name" screen
  printf "$bytes" >&"$keys"
  wait $! || code=$?
  exec {keys}>&-
  same "$want" "$code" "exit code at the prompt"
  cp screen "$OUTPUTS/out"
  : >"$OUTPUTS/err"
}

ok coffer init
no_smoke
ok coffer apps create web
ok coffer secrets set -a web --stage KEPT=before

step "a value at the prompt: no echo, editing, any length"
at_prompt 0 'hunter2\n' TYPED
says_not hunter2
is TYPED hunter2
at_prompt 0 'wrong\025za\303\274X\177\177\177\303\263\n' EDITED
is EDITED zó
long=$(printf '%06000d' 7)
at_prompt 0 "$long\n" LONG
is LONG "$long"

step "more than one line is refused, and reaches nobody else"
at_prompt 7 'line1\nhunter2\nline3\n' KEPT
says 'more than one line'
says_not hunter2
is KEPT before

step "end of input and Ctrl-C store nothing"
at_prompt 130 '\004' KEPT
is KEPT before
at_prompt 130 'half\003' KEPT
is KEPT before

step "standard streams that are closed or full"
expect_code 6 coffer secrets set -a web --stage KEPT=- <&-
is KEPT before
code=0
coffer secrets import -a web --stage <&- 2>err || code=$?
same 6 "$code" "import from a closed standard input"
for closed in '>&-' '2>&-' '>&- 2>&-' '<&- >&- 2>&-'; do
  code=0
  eval "coffer secrets set -a web --stage STREAMS='$closed' $closed" || code=$?
  case $closed in '2>&-') same 0 "$code" ;; *) same 1 "$code" "output that nobody gets: $closed" ;; esac
  is STREAMS "$closed"
done
code=0
coffer secrets list -a web >/dev/full 2>err || code=$?
same 1 "$code"
grep -q 'output could not be written' err || failed "no word about the output"
ok coffer vault check

step "places that cannot be looked at"
mkdir gone
code=0
(cd gone && rmdir ../gone && coffer secrets list 2>../err) || code=$?
same 3 "$code" "a working directory that is gone"
COFFER_HOME=$WORK/$(printf '%0300d' 0) expect_code 7 coffer init
cp "$COFFER_HOME/client/seen" seen
printf 'web deadbeef\n' >"$COFFER_HOME/client/seen"
expect_code 1 coffer secrets list -a web
says 'client/seen:1'
cp seen "$COFFER_HOME/client/seen"
ok coffer secrets list -a web

step "init again after a wrong passphrase file"
export COFFER_HOME=$WORK/second
expect_code 3 coffer init --kms-passphrase-file "$WORK/typo"
printf 'correct horse\n' >passphrase
chmod 600 passphrase
ok coffer init --kms-passphrase-file "$WORK/passphrase"
no_smoke
ok coffer apps create web
echo passed
