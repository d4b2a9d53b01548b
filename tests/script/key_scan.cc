// Looks for private keys in the memory of a process, written to a file.  Who has only the public key can look
// for a private one: each window of 32 bytes that looks random is taken for one, and its public key is
// compared.
//
//   coffer-key-scan [-j THREADS] IMAGE KEY...     prints `NAME OFFSET` per key that is there
//   coffer-key-scan --plant IMAGE                 appends an App's private key, and prints the KEY: for a
//   control
//
//   KEY = x25519:NAME:PUBLIC-HEX     its private key: 32 bytes, clamped or not
//       | ed25519:NAME:PUBLIC-HEX    its seed: 32 bytes
//       | file:NAME:PATH             what the file holds, byte for byte
//
// Exit code 0: one is there; 1: none is; 2: it could not look.
//
// Of x25519 and ed25519 it tries what begins at a multiple of 8 bytes, as what was allocated does, and each
// content once.  Bytes of which 4 are zero or fewer than 22 differ are not tried: of 100,000 random keys that
// passes by one. `file` is found at every byte.  A key that is written as text, or split, is not found.
#include <algorithm>
#include <atomic>
#include <bitset>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>
#include <unordered_set>

#include "coffer/crypto/primitives.h"

namespace {

using namespace coffer;

constexpr size_t kKey = 32, kStep = 8;
constexpr size_t kMaxZeros = 3, kMinDistinct = 22;

struct Wanted {
  enum Kind { kX25519, kEd25519, kFile } kind = kFile;
  std::string name;
  std::string bytes;  // the public key, or what the file holds
  std::atomic<size_t> found{std::string::npos};
};

std::optional<std::string> read_file(const std::string &path) {
  std::ifstream in(path, std::ios::binary);
  std::string all((std::istreambuf_iterator<char>(in)), {});
  if (!in) return std::nullopt;
  return all;
}

bool parse(std::string_view text, Wanted &out) {
  const size_t first = text.find(':'), second = text.find(':', first + 1);
  if (second == text.npos) return false;
  const std::string_view kind = text.substr(0, first), rest = text.substr(second + 1);
  out.name = text.substr(first + 1, second - first - 1);
  if (kind == "file") {
    const auto held = read_file(std::string(rest));
    if (held) out.bytes = *held;
    return out.bytes.size() >= kKey;
  }
  out.kind = kind == "x25519" ? Wanted::kX25519 : Wanted::kEd25519;
  const auto key = unhex(rest);
  if (key) out.bytes = as_text(*key);
  return (kind == "x25519" || kind == "ed25519") && out.bytes.size() == kKey;
}

bool looks_random(std::string_view window) {
  std::bitset<256> seen;
  size_t zeros = 0;
  bool text = true;
  for (const char c : window) {
    const auto byte = static_cast<uint8_t>(c);
    seen.set(byte);
    zeros += byte == 0;
    text = text && byte >= ' ' && byte <= '~';
  }
  return zeros <= kMaxZeros && !text && seen.count() >= kMinDistinct;
}

// Where the windows that are worth trying begin.  The last ones first: secret bytes lie in mappings, above
// the heap, and who looks for what is there has it sooner.
std::vector<size_t> candidates(std::string_view image) {
  std::vector<size_t> out;
  std::unordered_set<std::string_view> seen;
  for (size_t at = (image.size() - kKey) / kStep * kStep + kStep; at > 0;) {
    at -= kStep;
    const std::string_view window = image.substr(at, kKey);
    if (looks_random(window) && seen.insert(window).second) out.push_back(at);
  }
  return out;
}

void try_all(std::string_view image, const std::vector<size_t> &at, std::vector<Wanted> &wanted,
             size_t threads) {
  // A kind whose keys were all found costs nothing any more.
  const auto open = [&](Wanted::Kind kind) {
    return std::ranges::any_of(
        wanted, [&](const Wanted &w) { return w.kind == kind && w.found == std::string::npos; });
  };
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < at.size(); i = next++) {
      const ByteSpan window = as_bytes(image.substr(at[i], kKey));
      const auto compare = [&](Wanted::Kind kind, const PublicKey &key) {
        for (Wanted &w : wanted)
          if (w.kind == kind && w.bytes == as_text(key)) w.found = at[i];
      };
      const bool x25519 = open(Wanted::kX25519), ed25519 = open(Wanted::kEd25519);
      if (x25519) compare(Wanted::kX25519, *x25519_public(window));
      if (ed25519) compare(Wanted::kEd25519, SigningKey::from_seed(window)->public_key());
      if (!x25519 && !ed25519) return;
    }
  };
  std::vector<std::jthread> others;
  for (size_t i = 1; i < threads; ++i) others.emplace_back(work);
  work();
}

int plant(const std::string &path) {
  std::ofstream out(path, std::ios::binary | std::ios::app);
  out.seekp(0, std::ios::end);
  const KeyPair app = x25519_generate();
  out << std::string(kStep - static_cast<size_t>(out.tellp()) % kStep, '\0')
      << as_text(app.private_key.reveal());
  if (!out.flush()) return 2;
  std::printf("x25519:planted:%s\n", hex(app.public_key).c_str());
  return 0;
}

int scan(const std::string &path, size_t threads, std::vector<Wanted> &wanted) {
  const auto image = read_file(path);
  if (!image || image->size() < kKey) {
    std::fprintf(stderr, "%s cannot be read, or is empty\n", path.c_str());
    return 2;
  }
  for (Wanted &w : wanted)
    if (w.kind == Wanted::kFile) w.found = image->find(w.bytes);
  const bool only_files =
      std::ranges::all_of(wanted, [](const Wanted &w) { return w.kind == Wanted::kFile; });
  const std::vector<size_t> at = only_files ? std::vector<size_t>() : candidates(*image);
  try_all(*image, at, wanted, threads);
  int code = 1;
  for (const Wanted &w : wanted) {
    if (w.found == std::string::npos) continue;
    std::printf("%s %zu\n", w.name.c_str(), w.found.load());
    code = 0;
  }
  std::fprintf(stderr, "%zu bytes, %zu windows\n", image->size(), at.size());
  return code;
}

}  // namespace

int main(int argc, char **argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 2 && words[0] == "--plant") return plant(words[1]);
  size_t threads = 1, i = 0;
  if (words.size() > 2 && words[0] == "-j") {
    const auto end = words[1].data() + words[1].size();
    if (std::from_chars(words[1].data(), end, threads).ptr != end || threads < 1 || threads > 64) threads = 0;
    i = 2;
  }
  std::vector<Wanted> wanted(words.size() > i ? words.size() - i - 1 : 0);
  bool right = threads > 0 && !wanted.empty();
  for (size_t k = 0; k < wanted.size(); ++k) right = right && parse(words[i + 1 + k], wanted[k]);
  if (!right) {
    std::fputs("coffer-key-scan [-j THREADS] IMAGE {x25519|ed25519}:NAME:PUBLIC-HEX|file:NAME:PATH...\n",
               stderr);
    return 2;
  }
  return scan(words[i], threads, wanted);
}
