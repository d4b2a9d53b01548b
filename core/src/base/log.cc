// The one file that includes spdlog, header-only: its shared libraries would cost each command 0.8 ms.
#include "coffer/base/log.h"

#define FMT_HEADER_ONLY
#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <atomic>

#include "coffer/base/text.h"

namespace coffer {
namespace {

std::atomic<LogLevel> lowest_level{LogLevel::kWarn};

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kTrace:
      return spdlog::level::trace;
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      break;
  }
  return spdlog::level::err;
}

// Made by the first line, never destroyed: threads of plugins may log until the process ends.
spdlog::logger &logger() {
  static spdlog::logger *const instance = [] {
    auto *l = new spdlog::logger("coffer", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    l->set_level(spdlog::level::trace);
    l->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    l->flush_on(spdlog::level::trace);
    return l;
  }();
  return *instance;
}

}  // namespace

void set_log_level(LogLevel lowest) { lowest_level = lowest; }

bool log_enabled(LogLevel level) { return level >= lowest_level.load(std::memory_order_relaxed); }

void log(LogLevel level, std::string_view target, std::string_view message) {
  if (!log_enabled(level)) return;
  const std::string line = printable(target, 128) + ": " + printable(message, 4096);
  logger().log(spdlog_level(level), spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace coffer
