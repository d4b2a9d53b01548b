#include "host_services.h"

#include <sys/random.h>

#include <cerrno>

#include "bridge.h"
#include "coffer/base/log.h"

namespace coffer {
namespace {

using bridge::view;

constexpr size_t kLargestSecureBlock = 64 << 20;

LogLevel level_of(int32_t level) {
  return level <= COFFER_LOG_TRACE   ? LogLevel::kTrace
         : level >= COFFER_LOG_ERROR ? LogLevel::kError
                                     : static_cast<LogLevel>(level);
}

int32_t on_log_enabled(const coffer_host *, int32_t level) noexcept { return log_enabled(level_of(level)); }

void on_log(const coffer_host *, int32_t level, coffer_str target, coffer_str message,
            const coffer_pair *fields, size_t n_fields) noexcept {
  if (!log_enabled(level_of(level))) return;
  bridge::contained([&] {
    std::string line = printable(view(message), 4096);
    for (size_t i = 0; fields && i < std::min<size_t>(n_fields, 32); ++i)
      line += " " + printable(view(fields[i].key), 64) + "=" + printable(as_text(view(fields[i].value)), 512);
    log(level_of(level), "plugin " + printable(view(target), 64), line);
  });
}

void *on_secure_alloc(const coffer_host *, size_t size) noexcept {
  return size <= kLargestSecureBlock ? secure_alloc(size) : nullptr;
}
void on_secure_free(const coffer_host *, void *p, size_t size) noexcept { secure_free(p, size); }
void on_cleanse(const coffer_host *, void *p, size_t size) noexcept {
  if (p) secure_wipe(p, size);
}

coffer_status on_random(const coffer_host *, void *out, size_t size) noexcept {
  for (auto *to = static_cast<uint8_t *>(out); size;) {
    const ssize_t n = ::getrandom(to, size, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return COFFER_UNAVAILABLE;
    to += n;
    size -= static_cast<size_t>(n);
  }
  return COFFER_OK;
}

const void *on_get_interface(const coffer_host *, const char *) noexcept { return nullptr; }

}  // namespace

const coffer_host &host_services() {
  static constexpr std::string_view kName = "coffer", kVersion = "1";
  static const coffer_host kHost = {sizeof(coffer_host),
                                    COFFER_ABI_MAJOR,
                                    COFFER_ABI_MINOR,
                                    nullptr,
                                    {kName.data(), kName.size()},
                                    {kVersion.data(), kVersion.size()},
                                    &on_log_enabled,
                                    &on_log,
                                    &on_secure_alloc,
                                    &on_secure_free,
                                    &on_cleanse,
                                    &on_random,
                                    &on_get_interface};
  return kHost;
}

}  // namespace coffer
