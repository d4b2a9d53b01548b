#include "log_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "supervisor.h"

namespace coffer::runtime_process {
namespace {
Fd open_log(int folder, const char *name) {
  return Fd(::openat(folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
}
}  // namespace

LogReader::LogReader(int folder) : folder_(folder), file_(open_log(folder, "log.1")) {
  if (!file_) file_ = open_log(folder, "log");
}

bool LogReader::read(const Emit &emit) {
  for (;;) {
    struct stat mine, newest;
    if (::fstatat(folder_, "log", &newest, AT_SYMLINK_NOFOLLOW) != 0) newest.st_ino = 0;
    if (file_ && !read_file(emit)) return false;
    const bool same =
        !newest.st_ino || (file_ && ::fstat(file_.get(), &mine) == 0 && mine.st_ino == newest.st_ino);
    if (same) return true;
    // `log` had another file before this one was read to its end: nothing more comes here.
    file_ = open_log(folder_, "log");
    pending_.clear();
    if (!file_) return true;
  }
}

bool LogReader::read_file(const Emit &emit) {
  char buffer[65536];
  for (ssize_t n; (n = ::read(file_.get(), buffer, sizeof buffer)) > 0;) {
    pending_.append(buffer, static_cast<size_t>(n));
    if (!parse(emit)) return false;
  }
  return true;
}

bool LogReader::parse(const Emit &emit) {
  size_t at = 0;
  bool more = true;
  while (more) {
    const std::string_view rest = std::string_view(pending_).substr(at);
    const size_t head = rest.find('\n');
    if (head == std::string_view::npos) break;
    int64_t time_ns = 0;
    size_t size = 0;
    const char *end = rest.data() + head;
    const auto time = std::from_chars(rest.data() + std::min<size_t>(2, head), end, time_ns);
    const auto length = std::from_chars(std::min(time.ptr + 1, end), end, size);
    if (head < 5 || (rest[0] != 'o' && rest[0] != 'e') || time.ec != std::errc() ||
        length.ec != std::errc() || length.ptr != end || size > LOG_RECORD_MAX)
      throw sdk::Error{COFFER_DATA_LOSS, "the log of the Machine is damaged"};
    if (rest.size() - head - 1 < size + 1) break;  // not complete yet
    std::string_view data = rest.substr(head + 1, size);
    while (more && !data.empty()) {
      const std::string_view line = data.substr(0, data.find('\n') + 1);
      const size_t take = line.empty() ? data.size() : line.size();
      more = emit(rest[0] == 'o' ? 1 : 2, time_ns, data.substr(0, take));
      data.remove_prefix(take);
    }
    at += head + 1 + size + 1;
  }
  pending_.erase(0, at);
  return more;
}

}  // namespace coffer::runtime_process
