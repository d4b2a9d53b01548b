#!/bin/sh
# house_rules_test.sh SOURCE_DIR LIBCOFFER_CRYPTO.A COFFER_CRYPTO_TEST LIBCOFFER_VAULT.A
#
# Each rule prints what breaks it.  A rule whose subject is gone fails too: a grep over nothing proves nothing.
set -u
export LC_ALL=C
cd "$1" || exit 2
crypto_library=$2
crypto_program=$3
vault_library=$4
nm=${NM:-nm}
broken=0

fail() {
  echo "broken: $*"
  broken=1
}

# Every source file that is ours, without build folders.
sources() {
  find sdk core plugins init server cli api keys agent tests bench examples -type f \
    \( -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cc' -o -name '*.cpp' \) 2>/dev/null
}

# only_in WHAT PATTERN PATH...: lines that match PATTERN are allowed only below the PATHs, and are there.
only_in() {
  what=$1
  pattern=$2
  shift 2
  found=$(sources | xargs grep -lE "$pattern")
  for path in "$@"; do
    case "
$found" in
      *"
$path"*) ;;
      *) fail "$what: nothing of it in $path" ;;
    esac
    found=$(echo "$found" | grep -v "^$path")
  done
  [ -z "$found" ] || fail "$what: not allowed in" $found
}

only_in "Botan" '^ *# *include *[<"]botan/' core/src/crypto/ plugins/kms-local/
only_in "OpenSSL" '^ *# *include *[<"]openssl/' server/http/
only_in "Boost.DLL" '^ *# *include *[<"]boost/dll' core/src/plugin_host/plugin.cc server/http/client_loader.cc

# A stranger reads all of our own cryptography in one go.
lines=$(find core/src/crypto -type f \( -name '*.h' -o -name '*.cc' \) ! -name '*_test.cc' -exec cat {} + | wc -l)
{ [ "$lines" -gt 100 ] && [ "$lines" -le 700 ]; } || fail "core/src/crypto has $lines lines, at most 700"

# What only seals cannot open: the library it links has no receiver.
symbols=$("$nm" -C "$crypto_library") || fail "no symbols of $crypto_library"
case $symbols in *HpkeSender::seal*) ;; *) fail "libcoffer_crypto.a has no HpkeSender" ;; esac
case $symbols in *HpkeReceiver*) fail "libcoffer_crypto.a has HpkeReceiver" ;; esac

# The vault seals and stores; what opens is not among what it defines or calls.
symbols=$("$nm" -C "$vault_library") || fail "no symbols of $vault_library"
case $symbols in *Sealer::seal*) ;; *) fail "libcoffer_vault.a has no Sealer" ;; esac
case $symbols in *Opener* | *HpkeReceiver*) fail "libcoffer_vault.a knows something that opens" ;; esac

# reveal() is the only door out of SecretBytes: each use of it is looked at once and then listed here.
uses=$(sources | grep -vE '(_test\.cc|/test_[a-z_]+\.h)$' | grep -E '^(core|cli|plugins|api|agent|keys|server)/' | xargs grep -oE '(\.|->)reveal\(\)' |
  cut -d: -f1 | sort | uniq -c | awk '{print $1, $2}')
listed=$(grep -v '^#' tests/house/reveal_uses.txt)
[ "$uses" = "$listed" ] || {
  fail "reveal() is used in other places than tests/house/reveal_uses.txt lists: check that nothing leaks there, then list it"
  echo "$uses" | diff tests/house/reveal_uses.txt - | grep '^[<>]'
}

# Botan linked statically takes its memory from the arena, and its own locked pool is not linked.
symbols=$("$nm" -C "$crypto_program") || fail "no symbols of $crypto_program"
case $symbols in
  *"T Botan::allocate_memory"*)
    case $symbols in *Botan::mlock_allocator*) fail "Botan's locked pool is linked" ;; esac
    ;;
esac

exit $broken
