// Runs a fuzz target without libFuzzer: each line of the FILES, its last column, as it is and changed in
// ROUNDS ways that are the same each time.
//   replay ROUNDS FILE...
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv) {
  std::vector<std::string> corpus;
  for (int i = 2; i < argc; ++i) {
    std::ifstream in(argv[i], std::ios::binary);
    for (std::string line; std::getline(in, line);) corpus.push_back(line.substr(line.rfind('\t') + 1));
  }
  if (argc < 3 || corpus.empty()) return std::fputs("usage: replay ROUNDS FILE...\n", stderr), 2;
  const auto run = [](const std::string &s) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(s.data()), s.size());
  };
  for (const std::string &s : corpus) run(s);
  std::mt19937_64 random(1);
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
  for (long round = std::atol(argv[1]); round > 0; --round) {
    std::string s = corpus[below(corpus.size())];
    for (size_t changes = 1 + below(4); changes > 0; --changes) {
      const size_t at = below(s.size() + 1);
      switch (below(5)) {
        case 0:
          if (at < s.size()) s[at] = static_cast<char>(s[at] ^ 1 << below(8));
          break;
        case 1:
          s.insert(at, 1 + below(4), static_cast<char>(random()));
          break;
        case 2:
          s.erase(at, 1 + below(8));
          break;
        case 3:
          s.resize(at);
          break;
        case 4: {
          const std::string &other = corpus[below(corpus.size())];
          const size_t from = below(other.size() + 1);
          s.insert(at, other.substr(from, below(64)));
          break;
        }
      }
    }
    run(s);
  }
  return 0;
}
