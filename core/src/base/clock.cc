#include "coffer/base/clock.h"

#include <cstdio>
#include <ctime>

namespace coffer {
namespace {

std::string to_seconds(uint64_t ms) {
  const auto t = static_cast<std::time_t>(ms / 1000);
  std::tm tm{};
  gmtime_r(&t, &tm);
  char text[64];
  return std::string(text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm));
}

}  // namespace

std::string rfc3339(uint64_t ms) { return to_seconds(ms) + "Z"; }

std::string rfc3339_ms(uint64_t ms) {
  char part[8];
  std::snprintf(part, sizeof part, ".%03uZ", static_cast<unsigned>(ms % 1000));
  return to_seconds(ms) + part;
}

}  // namespace coffer
