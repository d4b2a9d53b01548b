// The log: one line per event on stderr, for whoever operates Coffer.  Never holds a value.
// Nothing is set up before the first line is written.  Thread-safe.
#ifndef COFFER_BASE_LOG_H
#define COFFER_BASE_LOG_H

#include <string_view>

namespace coffer {

enum class LogLevel { kTrace, kDebug, kInfo, kWarn, kError };  // numbers of COFFER_LOG_*

void set_log_level(LogLevel lowest);  // default: kWarn
bool log_enabled(LogLevel);
// `target` says who speaks ("agent", "plugin kms-local").  Control characters in both texts become blanks.
void log(LogLevel, std::string_view target, std::string_view message);

}  // namespace coffer
#endif
