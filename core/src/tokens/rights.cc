#include "coffer/tokens/rights.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "coffer/base/names.h"

namespace coffer {
namespace {

constexpr std::string_view kApp = "app = ", kAllow = "allow = ", kExpires = "expires = ";

std::vector<std::string_view> split(std::string_view list) {
  std::vector<std::string_view> out;
  for (;;) {
    const size_t comma = list.find(',');
    out.push_back(list.substr(0, comma));
    if (comma == list.npos) return out;
    list.remove_prefix(comma + 1);
  }
}

std::string join(std::string_view key, std::span<const std::string> words) {
  std::string out(key);
  for (const std::string &w : words) out += (&w == words.data() ? "" : ",") + w;
  return out;
}

}  // namespace

Result<Rights> Rights::of(std::span<const std::string> caveats) {
  Rights rights;
  for (size_t i = 0; i < caveats.size(); ++i)
    if (!rights.restrict_to(caveats[i]))
      return fail(
          ErrorCode::kPermissionDenied,
          "caveat " + std::to_string(i + 1) + " of the token is not understood, so the token is refused");
  return rights;
}

bool Rights::restrict_to(std::string_view caveat) {
  if (caveat.starts_with(kApp)) {
    std::set<std::string, std::less<>> named;
    for (const std::string_view name : split(caveat.substr(kApp.size()))) {
      if (!valid_app_name(name)) return false;
      if (!apps_ || apps_->contains(name)) named.emplace(name);
    }
    apps_ = std::move(named);
    return true;
  }
  if (caveat.starts_with(kAllow)) {
    std::bitset<kRightWords.size()> named;
    for (const std::string_view word : split(caveat.substr(kAllow.size()))) {
      const auto at = std::ranges::find(kRightWords, word);
      if (at == kRightWords.end()) return false;
      named.set(static_cast<size_t>(at - kRightWords.begin()));
    }
    words_ &= named;
    return true;
  }
  if (caveat.starts_with(kExpires)) {
    const auto at = parse_utc(caveat.substr(kExpires.size()));
    if (!at) return false;
    expires_ms_ = std::min(*at, expires_ms_.value_or(*at));
    return true;
  }
  return false;
}

bool Rights::allows(Right right, std::string_view app) const {
  return words_.test(static_cast<size_t>(right)) && (!apps_ || (!app.empty() && apps_->contains(app)));
}

bool Rights::covers(const Rights &other) const {
  if ((other.words_ & ~words_).any()) return false;
  if (expires_ms_ && (!other.expires_ms_ || *other.expires_ms_ > *expires_ms_)) return false;
  return !apps_ || (other.apps_ && std::ranges::includes(*apps_, *other.apps_));
}

std::vector<std::string_view> Rights::words() const {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < kRightWords.size(); ++i)
    if (words_.test(i)) out.push_back(kRightWords[i]);
  return out;
}

std::string app_caveat(std::span<const std::string> apps) { return join(kApp, apps); }
std::string allow_caveat(std::span<const std::string> words) { return join(kAllow, words); }
std::string expires_caveat(uint64_t at_ms) {
  const std::chrono::sys_seconds at{std::chrono::seconds(at_ms / 1000)};
  const auto day = std::chrono::floor<std::chrono::days>(at);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss time(at - day);
  char text[64];
  std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02d:%02d:%02dZ", static_cast<int>(date.year()),
                static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                static_cast<int>(time.hours().count()), static_cast<int>(time.minutes().count()),
                static_cast<int>(time.seconds().count()));
  return std::string(kExpires) + text;
}

std::optional<uint64_t> parse_utc(std::string_view text) {
  constexpr std::string_view kShape = "dddd-dd-ddTdd:dd:ddZ";
  if (text.size() != kShape.size()) return std::nullopt;
  for (size_t i = 0; i < text.size(); ++i)
    if (kShape[i] == 'd' ? text[i] < '0' || text[i] > '9' : text[i] != kShape[i]) return std::nullopt;
  const auto number = [&](size_t at, size_t digits) {
    int n = 0;
    for (const char c : text.substr(at, digits)) n = n * 10 + (c - '0');
    return n;
  };
  using namespace std::chrono;
  const year_month_day date(year(number(0, 4)), month(static_cast<unsigned>(number(5, 2))),
                            day(static_cast<unsigned>(number(8, 2))));
  const int hour = number(11, 2), minute = number(14, 2), second = number(17, 2);
  if (!date.ok() || hour > 23 || minute > 59 || second > 59) return std::nullopt;
  const auto since = sys_days(date).time_since_epoch() + hours(hour) + minutes(minute) + seconds(second);
  if (since < seconds(0)) return std::nullopt;
  return static_cast<uint64_t>(duration_cast<milliseconds>(since).count());
}

}  // namespace coffer
