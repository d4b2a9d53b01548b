#!/bin/bash
# releases_test.sh COFFER [RUNTIME IMAGE]: a secret that ends the app, roll-outs that others join, `coffer deploy`, the
# way back of releases and of secrets, purge.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
begin "$1"
runtime=${2:-process}
image=${3:-host}
ok coffer init --runtime "$runtime"
printf '\n[deploy]\nsmoke_time = "1s"\n' >>home/engine.toml
ok coffer apps create web

# An app that says what it has, and ends when it is told to.
app='echo "I have $GOOD"; test -z "$BAD" || { echo "BAD is $BAD" >&2; exit 7; }; exec sleep 1000'
versions() { field '.[].secrets_version' machine list -a web | sort -u | tr '\n' ' '; }
inside_env() { coffer machine exec -a web "$1" -- sh -c "printf %s \"\$$2\"" </dev/null; }
status() { field ".[] | select(.name == \"$1\") | .status" secrets list -a web; }
instances() { field '.[].instance_id' machine list -a web | sort | tr '\n' ' '; }

step "ten Machines, and a secret that ends the app"
good=$(canary) bad=$(canary)
printf '%s' "$good" | ok coffer secrets set -a web --stage GOOD=-
for i in $(seq 10); do ok coffer machine run -a web --name "web-$i" "$image" -- sh -c "$app"; done
before=$(versions)
kept=$(field '.[] | select(.name != "web-1") | .instance_id' machine list -a web | sort)
printf '%s' "$bad" >bad
expect_code 1 coffer secrets set -a web --from-file "BAD=bad"
says "Machine web-1 ("
says "ended with exit code 7"
says "BAD is [redacted]"
says "I have [redacted]"
says "stays staged"
says_not "$bad"
same "$before" "$(versions)" "all run the previous version"
same "$kept" "$(field '.[] | select(.name != "web-1") | .instance_id' machine list -a web | sort)" "the others were not touched"
for i in $(seq 10); do
  same "$good" "$(inside_env "web-$i" GOOD)"
  same "" "$(inside_env "web-$i" BAD)"
done
same Staged "$(status BAD)"
ok coffer releases list -a web
says "ended with exit code 7"
ok coffer machine logs -a web web-1 --failed
says "BAD is $bad" # its own, to who may read its log
rm "$OUTPUTS/all.$calls"
ok coffer machine list -a web
says "newest v"
same 10 "$(field '[.[] | select(.drift != "")] | length' machine list -a web)"

step "the same, with a value that is too short to be found in a log"
ok coffer secrets unset -a web --stage BAD
ok coffer secrets set -a web --stage PIN=123
expect_code 1 coffer secrets set -a web BAD=short-one
says_not "short-one"
says_not "I have"
says "machine logs -a web ID --failed"
ok coffer secrets unset -a web --stage BAD PIN

step "what is good goes out, in waves"
ok coffer secrets set -a web MORE=more
says "wave 1 of 4"
same 1 "$(versions | wc -w)"
same Deployed "$(status MORE)"

step "secrets go back, and a purge makes an end of older values"
leaked=$(canary)
printf '%s' "$leaked" | ok coffer secrets set -a web MORE=-
ok coffer secrets history -a web MORE
ok coffer secrets rollback -a web --stage
same Staged "$(status MORE)"
ok coffer secrets deploy -a web --detach
same more "$(inside_env web-3 MORE)"
ok coffer secrets purge -a web MORE
says "Older values of MORE are forgotten"
expect_code 3 coffer secrets rollback -a web 2
ok coffer vault check
ok coffer apps destroy web -y

step "coffer deploy"
ok coffer apps create shop
cat >coffer.toml <<TOML
app = "shop"
[build]
image = "$image"
[env]
MODE = "first"
[processes]
web = "sh -c 'exec sleep 1000'"
[processes.worker]
command = "sh -c 'exec sleep 1000'"
secrets = ["KEY", { name = "URL", env_var = "DATABASE_URL" }]
[checks.alive]
type = "command"
command = "test -n \$MODE"
processes = ["web"]
[deploy]
smoke_time = "0s"
wait_timeout = "5s"
TOML
sed -i "s/\\\$MODE/x/" coffer.toml
ok coffer secrets set --stage KEY=a-key-value URL=a-url-value OTHER=another-value
ok coffer deploy
says "Release 1 is out"
inside() { coffer machine exec "$1" -- sh -c "printf %s \"\$$2\"" </dev/null; }
same first "$(inside web MODE)"
same a-url-value "$(inside web URL)"
same a-url-value "$(inside worker DATABASE_URL)"
same "" "$(inside worker URL)" "renamed"
same "" "$(inside worker OTHER)" "not chosen"
same a-key-value "$(inside worker KEY)"
ok coffer deploy
says "Nothing to deploy"
sed -i 's/MODE = "first"/MODE = "second"/' coffer.toml
ok coffer deploy
same second "$(inside web MODE)"
ok coffer releases rollback
same first "$(inside web MODE)"
sed -i 's/command = "test.*/command = "false"/' coffer.toml
expect_code 1 coffer deploy
says "its check alive did not pass within 5 s: it ended with exit code 1"
same first "$(inside web MODE)"
same first "$(inside worker MODE)"
expect_code 3 coffer deploy --resume
ok coffer releases list
same "done failed" "$(field '.releases[].outcome' releases list | sort -u | tr '\n' ' ' | sed 's/ $//')"
ok coffer vault check
ok coffer apps destroy shop -y
nowhere "$bad" home
nowhere "$leaked" home
