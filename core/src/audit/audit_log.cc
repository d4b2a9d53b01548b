#include "coffer/audit/audit_log.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "audit_line.h"
#include "coffer/posix.hpp"

namespace coffer {
namespace {

namespace fs = std::filesystem;

using sdk::Fd;

std::unexpected<Error> cannot(const fs::path &file, std::string_view what) {
  const std::string why = std::strerror(errno);
  return fail(
      ErrorCode::kUnavailable, "audit log " + file.string() + " " + std::string(what) + ": " + why,
      "Free space, or correct owner and mode of the file and its folder: what cannot be logged is not "
      "done.");
}

void sync_folder(const fs::path &folder) {
  const Fd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() >= 0) ::fsync(fd.get());
}

bool lock_file(int fd, int how) {
  int done;
  do done = ::flock(fd, how);
  while (done != 0 && errno == EINTR);
  return done == 0;
}

// The file; made when it is not there.
Result<Fd> open_file(const fs::path &file) {
  constexpr int kFlags = O_RDWR | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
  Fd fd(::open(file.c_str(), kFlags));
  if (fd.get() < 0 && errno == ENOENT) {
    if (::mkdir(file.parent_path().c_str(), 0700) == 0)
      sync_folder(file.parent_path().parent_path());
    else if (errno != EEXIST)
      return cannot(file, "cannot be made");
    fd = Fd(::open(file.c_str(), kFlags | O_CREAT, 0600));
    if (fd.get() >= 0) sync_folder(file.parent_path());
  }
  if (fd.get() < 0) return cannot(file, "cannot be written");
  return fd;
}

struct End {
  Checkpoint at;
  uint64_t size = 0;  // up to which the log is whole
  uint64_t torn = 0;  // bytes behind it: of a writer that was cut off before it acknowledged anything
};

// REQUIRES: it is locked.
// A writer that was cut off leaves a line without its end; where the power went, the file may have grown
// before its bytes were there, and a line holds zeros.  Any other line that is not an entry was put there by
// somebody.
Result<End> find_end(int fd, const fs::path &file) {
  struct stat st{};
  if (::fstat(fd, &st) != 0) return cannot(file, "cannot be looked at");
  End end;
  end.size = static_cast<uint64_t>(st.st_size);
  const uint64_t window = std::min<uint64_t>(end.size, 3 * kMaxAuditLine);
  std::string text(window, '\0');
  for (size_t have = 0; have < window;) {
    const ssize_t n =
        ::pread(fd, text.data() + have, window - have, static_cast<off_t>(end.size - window + have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return cannot(file, "cannot be read");
    if (n == 0) return fail(ErrorCode::kUnavailable, "audit log " + file.string() + " is being cut");
    have += static_cast<size_t>(n);
  }
  const bool from_start = window == end.size;
  const auto cut_to = [&](size_t keep) {
    end.torn += text.size() - keep;
    end.size -= text.size() - keep;
    text.resize(keep);
  };
  const auto last_line = [&]() -> std::optional<size_t> {  // where it begins
    const size_t before = text.size() < 2 ? text.npos : text.rfind('\n', text.size() - 2);
    if (before != text.npos) return before + 1;
    return from_start ? std::optional<size_t>(0) : std::nullopt;
  };
  if (!text.empty() && text.back() != '\n')
    if (const auto start = last_line()) cut_to(*start);
  for (bool again : {true, false}) {
    if (text.empty() && from_start) return end;
    const auto start = last_line();
    if (!start || text.back() != '\n') break;
    const std::string_view line = std::string_view(text).substr(*start, text.size() - 1 - *start);
    if (const auto frame = audit_frame(line)) {
      end.at = {frame->number, frame->hash};
      return end;
    }
    if (!again || line.find('\0') == line.npos) break;
    cut_to(*start);
  }
  return fail(ErrorCode::kDataLoss,
              "audit log " + file.string() + ": its last line is no entry: it was changed",
              "See `coffer audit verify`. To begin anew, move all audit logs away, and keep them.");
}

}  // namespace

// What is known of the file between two entries.  Others may write it, or put another in its place: its size
// and identity are looked at each time, its end is read when they are not as this log has left them.
struct AuditLog::Open {
  static constexpr uint64_t kReserve = 4 * kMaxAuditLine;

  std::mutex mutex;
  std::shared_ptr<const Fd> fd;  // whoever syncs it keeps it open
  dev_t device = 0;
  ino_t inode = 0;
  std::optional<End> end;  // at size `end->size`, if the file still has that
  uint64_t reserved = 0;   // up to here the disk has space for it
  uint64_t written = 0;    // entries, by this process
  uint64_t synced = 0;     // of them
  uint64_t lost = 0;       // up to here a sync has failed: the system says that once and drops what it held
  bool syncing = false;
  std::condition_variable sync_ended;

  // REQUIRES: the mutex is held.  Answers the file's size.
  Result<uint64_t> look(const fs::path &file, std::unique_lock<std::mutex> &lock) {
    struct stat st{};
    const bool there = ::lstat(file.c_str(), &st) == 0;
    if (!fd || !there || st.st_dev != device || st.st_ino != inode) {
      // What was written to the one before is synced by whoever wrote it.
      sync_ended.wait(lock, [&] { return !syncing; });
      COFFER_TRY(Fd opened, open_file(file));
      if (::fstat(opened.get(), &st) != 0) return cannot(file, "cannot be looked at");
      fd = std::make_shared<const Fd>(std::move(opened));
      device = st.st_dev;
      inode = st.st_ino;
      end.reset();
      reserved = 0;
      synced = written;
    }
    if (!S_ISREG(st.st_mode) || (st.st_mode & 022)) {
      fd.reset();
      return fail(ErrorCode::kUnavailable,
                  "audit log " + file.string() +
                      (S_ISREG(st.st_mode) ? " can be changed by others" : " is not a file"),
                  "chmod 0600 " + file.string());
    }
    return static_cast<uint64_t>(st.st_size);
  }

  // REQUIRES: the mutex is held, and the file locked.
  Result<End> find(const fs::path &file) {
    struct stat st{};
    if (::fstat(fd->get(), &st) != 0) return cannot(file, "cannot be looked at");
    if (!end || end->torn || end->size != static_cast<uint64_t>(st.st_size)) {
      end.reset();
      COFFER_TRY(end, find_end(fd->get(), file));
    }
    return *end;
  }

  // Everything up to entry `number`: of several who ask at once one syncs for all.
  Result<void> sync(const fs::path &file, uint64_t number, const std::shared_ptr<const Fd> &its) {
    std::unique_lock lock(mutex);
    sync_ended.wait(lock, [&] { return !syncing || synced >= number || lost >= number; });
    if (lost >= number) return errno = EIO, cannot(file, "cannot be synced");
    if (synced >= number && its == fd) return {};
    syncing = true;
    const uint64_t upto = written;
    lock.unlock();
    const bool done = ::fdatasync(its->get()) == 0;
    const int why = errno;
    lock.lock();
    syncing = false;
    if (done && its == fd) synced = std::max(synced, upto);
    if (!done) lost = std::max(lost, upto);
    sync_ended.notify_all();
    errno = why;
    if (!done) return cannot(file, "cannot be synced");
    return {};
  }
};

AuditLog::AuditLog(fs::path file, std::function<uint64_t()> now)
    : file_(std::move(file)), now_(std::move(now)), open_(std::make_unique<Open>()) {}
AuditLog::AuditLog(AuditLog &&) noexcept = default;
AuditLog::~AuditLog() = default;

Result<void> AuditLog::ready() const {
  std::unique_lock lock(open_->mutex);
  COFFER_TRY(const uint64_t size, open_->look(file_, lock));
  if (!open_->end || open_->end->size != size) {
    if (!lock_file(open_->fd->get(), LOCK_EX)) return cannot(file_, "cannot be locked");
    const auto end = open_->find(file_);
    lock_file(open_->fd->get(), LOCK_UN);
    COFFER_CHECK(end);
  }
  // The space of the entry to come, where the file system can promise it.
  if (size + kMaxAuditLine <= open_->reserved) return {};
  for (const uint64_t more : {Open::kReserve, kMaxAuditLine}) {
    if (::fallocate(open_->fd->get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(size),
                    static_cast<off_t>(more)) == 0) {
      open_->reserved = size + more;
      return {};
    }
    if (errno != ENOSPC && errno != EDQUOT && errno != EFBIG) return {};
  }
  return cannot(file_, "cannot be written");
}

Result<Checkpoint> AuditLog::append(const AuditEntry &entry, Sync sync) const {
  std::unique_lock lock(open_->mutex);
  COFFER_CHECK(open_->look(file_, lock));
  const std::shared_ptr<const Fd> fd = open_->fd;
  if (!lock_file(fd->get(), LOCK_EX)) return cannot(file_, "cannot be locked");
  const auto written = [&]() -> Result<Checkpoint> {
    COFFER_TRY(End end, open_->find(file_));
    if (entry.action.empty()) return end.at;
    const uint64_t now = now_();
    std::string lines;
    open_->end.reset();
    if (end.torn) {
      open_->reserved = 0;
      if (::ftruncate(fd->get(), static_cast<off_t>(end.size)) != 0)
        return cannot(file_, "cannot be repaired");
      AuditEntry repair;
      repair.action = "repair";
      repair.count = end.torn;
      append_audit_lines(lines, repair, now, end.at);
    }
    append_audit_lines(lines, entry, now, end.at);
    bool done = true;
    for (std::string_view left = lines; done && !left.empty();) {
      const ssize_t n = ::write(fd->get(), left.data(), left.size());
      if (n >= 0)
        left.remove_prefix(static_cast<size_t>(n));
      else
        done = errno == EINTR;
    }
    if (!done) {
      const auto error = cannot(file_, "cannot be written");
      // What cannot be taken back is torn, and the next writer cuts it off.
      open_->reserved = 0;
      [[maybe_unused]] const int taken_back = ::ftruncate(fd->get(), static_cast<off_t>(end.size));
      return error;
    }
    open_->end = End{end.at, end.size + lines.size(), 0};
    ++open_->written;
    return end.at;
  }();
  const uint64_t number = open_->written;
  // Others may write meanwhile: the disk syncs for all of them at once.
  lock_file(fd->get(), LOCK_UN);
  lock.unlock();
  if (written && sync == Sync::kNow && !entry.action.empty()) COFFER_CHECK(open_->sync(file_, number, fd));
  return written;
}

Result<void> read_audit(
    const std::vector<AuditFile> &files,
    const std::function<void(const AuditFile &, std::string_view line, bool whole)> &each) {
  struct Open {
    Fd fd;
    uint64_t size = 0;
  };
  std::vector<Open> all;
  for (const AuditFile &f : files) {
    Open o{Fd(::open(f.file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY))};
    if (o.fd.get() < 0 && errno != ENOENT) return cannot(f.file, "cannot be read");
    if (o.fd.get() >= 0 && !lock_file(o.fd.get(), LOCK_SH)) return cannot(f.file, "cannot be locked");
    all.push_back(std::move(o));
  }
  // A writer holds one lock at a time, so all sizes are of one moment; what is there is only added to.
  for (size_t i = 0; i < all.size(); ++i) {
    struct stat st{};
    if (all[i].fd.get() < 0) continue;
    if (::fstat(all[i].fd.get(), &st) != 0) return cannot(files[i].file, "cannot be looked at");
    if (!S_ISREG(st.st_mode))
      return fail(ErrorCode::kPermissionDenied, "audit log " + files[i].file.string() + " is not a file");
    all[i].size = static_cast<uint64_t>(st.st_size);
  }
  for (const Open &o : all)
    if (o.fd.get() >= 0) lock_file(o.fd.get(), LOCK_UN);

  for (size_t i = 0; i < all.size(); ++i) {
    std::string text;  // what is read and not yet handed out; a line that is far too long is cut into several
    std::string chunk(256 * 1024, '\0');
    for (uint64_t left = all[i].size; left > 0;) {
      const ssize_t n = ::read(all[i].fd.get(), chunk.data(), std::min<uint64_t>(left, chunk.size()));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return cannot(files[i].file, "cannot be read");
      if (n == 0) break;
      left -= static_cast<uint64_t>(n);
      text.append(chunk, 0, static_cast<size_t>(n));
      size_t from = 0;
      for (size_t at; (at = text.find('\n', from)) != text.npos; from = at + 1)
        each(files[i], std::string_view(text).substr(from, at - from), true);
      text.erase(0, from);
      if (text.size() > (1u << 20)) {
        each(files[i], text, true);
        text.clear();
      }
    }
    if (!text.empty()) each(files[i], text, false);
  }
  return {};
}

}  // namespace coffer
