#!/bin/bash
# join_test.sh COFFER [SETS [RUNTIME IMAGE]]: SETS (50) processes set a secret at once.  Who finds a roll-out under way
# waits for it and joins the next one: 3 roll-outs at most, counted by the apps that were started.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
sets=${2:-50}
runtime=${3:-process}
image=${4:-host}
ok coffer init --runtime "$runtime"
ok coffer apps create web
# Each start of the app is a line in a folder that outlives its instances.
if [ "$runtime" = docker ]; then
  mkdir -m 777 starts
  where=(-v "$WORK/starts:/starts") file=/starts/all
else
  where=() file=$WORK/starts.all
fi
ok coffer machine run -a web "${where[@]}" "$image" -- sh -c "echo start >>$file; exec sleep 1000"
starts() { grep -c start "${file/#\/starts/$WORK/starts}"; }
same 1 "$(starts)"
release=$(field '.releases[0].release' releases list -a web)

step "$sets sets at once"
mkfifo gate
exec {gate}<>gate
mkdir at_once
pids=()
for ((i = 1; i <= sets; ++i)); do
  (
    read -r _ <&"$gate"
    exec timeout 300 coffer secrets set -a web -j "K$i=value-$i" >"at_once/$i" 2>"at_once/$i.err" </dev/null
  ) &
  pids+=("$!")
done
for ((i = 1; i <= sets; ++i)); do echo; done >&"$gate"
for ((i = 1; i <= sets; ++i)); do
  wait "${pids[i - 1]}" || failed "set $i ended with $?: $(cat "at_once/$i.err")"
done
step "all are out"
rollouts=$(($(field '.releases[0].release' releases list -a web) - release))
echo "$rollouts roll-outs, $(starts) starts in all"
[ "$rollouts" -le 3 ] || failed "$rollouts roll-outs"
same "$rollouts" "$(($(starts) - 1))" "starts of the app"
# Each was told a release that has its value.
for ((i = 1; i <= sets; ++i)); do
  [ "$(jq .release "at_once/$i")" -gt "$release" ] || failed "set $i returned before its change was out"
done
machine=$(field '.[0].id' machine list -a web)
for ((i = 1; i <= sets; ++i)); do echo "K$i=value-$i"; done | sort >wanted
coffer machine exec -a web "$machine" -- sh -c "env | grep '^K'" </dev/null | sort >there
cmp wanted there || failed "a value is missing"
same "$sets" "$(field '[.[] | select(.status == "Deployed")] | length' secrets list -a web)"
