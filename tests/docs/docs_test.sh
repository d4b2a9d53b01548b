#!/usr/bin/env bash
# docs_test.sh COFFER SOURCE_DIR CXX: what the pages say is there.
#
#   links      each relative link leads to a file, and to a heading of it
#   tests      each test that a page names exists
#   commands   each command and each option of the program stands in docs/cli.md, and no option that it has not
#   example    the plugin of docs/abi.md compiles, exports one symbol, and is loaded
set -euo pipefail
coffer=$1
cd "$2"
cxx=$3
broken=0
fail() {
  echo "broken: $*"
  broken=1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export COFFER_HOME=$work/home
"$coffer" init >/dev/null

pages=$(find . -name '*.md' -not -path './build/*' | sort)
[ "$(wc -w <<<"$pages")" -ge 10 ] || fail "the pages were not found"

# ---- links ----
anchors() { # of a page, as web views of Markdown make them
  sed -n 's/^#\{1,6\} \(.*\)/\1/p' "$1" | tr 'A-Z' 'a-z' | sed 's/[^a-z0-9 _-]//g; s/ /-/g'
}
links=0
for page in $pages; do
  while read -r link; do
    links=$((links + 1))
    file=${link%%#*}
    target=$page
    [ -z "$file" ] || target=$(dirname "$page")/$file
    if [ ! -e "$target" ]; then
      fail "$page: no such file: $link"
    elif [ "$link" != "$file" ]; then
      anchors "$target" | grep -qxF -- "${link#*#}" || fail "$page: no such heading: $link"
    fi
  done < <(grep -oE '\]\([^)]+\)' "$page" | sed 's/^](//; s/)$//' | grep -vE '^[a-z]+:')
done
[ "$links" -gt 30 ] || fail "only $links links were found"

# ---- tests ----
sources=$(find core sdk plugins init server tests -name '*_test.cc' -o -name '*_suite.cc')
names=$(cat $sources | grep -oE '^TEST(_F|_P)?\([A-Za-z0-9]+, *[A-Za-z0-9]+' | sed -E 's/^TEST(_F|_P)?\(//; s/, */./' | sort -u)
known='\.(cc|h|hpp|c|md|sh|so|db|toml|txt|cmake|key|json|log|pack|store[a-z]*|storage)$'
for page in $pages; do
  for test in $(grep -ohE '`[A-Z][A-Za-z0-9]+\.[A-Z][A-Za-z0-9]+`' "$page" | tr -d '`' | grep -vE "$known" | sort -u); do
    grep -qxF -- "$test" <<<"$names" || fail "$page: no such test: $test"
  done
  for file in $(grep -ohE '`(tests|core|plugins|sdk|cli|init|server|scripts)/[A-Za-z0-9_./-]+`' "$page" | tr -d '`' | grep -v NAME | sort -u); do
    [ -e "$file" ] || [ -e "$(dirname "$page")/$file" ] || fail "$page: no such file: $file"
  done
done

# ---- commands ----
page=docs/cli.md
commands=$(sed -n '/kCommands = {/,/^};/s/^ *{"\([a-z ]*\)".*/\1/p' cli/main.cc)
[ "$(wc -l <<<"$commands")" -ge 20 ] || fail "the commands were not found in cli/main.cc"
all=$work/options
options_of() { # COMMAND...
  "$coffer" "$@" --help | grep -oE '^  (-[a-zA-Z],)?--[a-z-]+' | grep -oE -- '--[a-z-]+' >>"$all"
}
options_of
while read -r command; do
  grep -qE "coffer $command( |\`)" "$page" || fail "$page: nothing of: coffer $command"
  # shellcheck disable=SC2086
  options_of $command
done <<<"$commands"
sort -u -o "$all" "$all"
[ "$(wc -l <"$all")" -ge 20 ] || fail "the options were not found"
while read -r option; do
  grep -qE -- "(^|[^a-z-])$option([^a-z-]|$)" "$page" || fail "$page: nothing of $option"
done <"$all"
for option in $(grep -oE -- '--[a-z][a-z-]+' "$page" | sort -u); do
  grep -qxF -- "$option" "$all" || fail "$page: there is no $option"
done

# ---- example ----
sed -n '/^```cpp$/,/^```$/p' docs/abi.md | sed '1d;$d' >"$work/example.cc"
"$cxx" -std=c++17 -Wall -Wextra -Wpedantic -Werror -shared -fPIC -fvisibility=hidden -Isdk/include "$work/example.cc" \
  -o "$work/example.so" -Wl,--version-script=sdk/cmake/plugin.version -Wl,-z,nodelete
[ "$(nm -D --defined-only "$work/example.so" | wc -l)" = 1 ] || fail "the example exports more than its entry"
"$coffer" plugin info "$work/example.so" | grep -q 'coffer.storage/1' || fail "the example is not loaded"
sed "s#\"storage-sqlite\"#\"$work/example.so\"#" "$COFFER_HOME/engine.toml" >"$work/home/memory.toml"
# A vault in memory is gone with its process, so the next command finds none: and says so.
code=0
said=$("$coffer" --engine "$work/home/memory.toml" apps list 2>&1) || code=$?
[ "$code" = 4 ] || fail "the example as a vault: exit $code"
case $said in *"holds no vault yet"*) ;; *) fail "the example as a vault: $said" ;; esac

exit $broken
