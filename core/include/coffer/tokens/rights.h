// What the caveats of a user token leave of all rights.  Each caveat takes away: several of a kind intersect,
// and one that is not understood refuses the whole token.  docs/format.md, "User tokens", has the grammar.
#ifndef COFFER_TOKENS_RIGHTS_H
#define COFFER_TOKENS_RIGHTS_H

#include <bitset>
#include <optional>
#include <set>
#include <span>

#include "coffer/base/bytes.h"
#include "coffer/base/result.h"

namespace coffer {

// None of them includes another: `admin` is what only administrators do, and not all.
enum class Right : uint8_t { kList, kSet, kDeploy, kMachine, kExec, kRun, kKeys, kToken, kAudit, kAdmin };
inline constexpr std::array<std::string_view, 10> kRightWords = {
    "list", "set", "deploy", "machine", "exec", "run", "keys", "token", "audit", "admin"};

class Rights {
 public:
  Rights() { words_.set(); }  // all, on every App, for ever
  // kPermissionDenied with the position of a caveat that is not understood; its text is not repeated.
  static Result<Rights> of(std::span<const std::string> caveats);

  // An empty `app` is what belongs to no App, or to all: a token for certain Apps may not do it.
  bool allows(Right, std::string_view app) const;
  bool expired(uint64_t now_ms) const { return expires_ms_ && now_ms >= *expires_ms_; }
  // Who has these may hand out those: every App, word and moment of `other` is in these.
  bool covers(const Rights &other) const;

  const std::optional<std::set<std::string, std::less<>>> &apps() const {
    return apps_;
  }  // nullopt: every App
  std::vector<std::string_view> words() const;
  std::optional<uint64_t> expires_ms() const { return expires_ms_; }  // nullopt: never

 private:
  bool restrict_to(std::string_view caveat);
  std::optional<std::set<std::string, std::less<>>> apps_;
  std::bitset<kRightWords.size()> words_;
  std::optional<uint64_t> expires_ms_;
};

// Caveats as text.  REQUIRES: valid names, words of kRightWords, a time up to the year 9999.
std::string app_caveat(std::span<const std::string> apps);
std::string allow_caveat(std::span<const std::string> words);
std::string expires_caveat(uint64_t at_ms);  // seconds: the rest is cut off

// "2027-01-01T00:00:00Z" and no other form of RFC 3339, as ms since 1970; nullopt: not that, or no such time.
std::optional<uint64_t> parse_utc(std::string_view text);

}  // namespace coffer
#endif
