// storage-file: a folder per space, a pack file per commit.  The layout is in README.md.
//
// A pack is written as `new`, synced, and renamed to head.pack: that rename is the commit.  It names the
// older packs that it stands on (N.pack), so a reader that has opened head.pack sees one whole commit,
// whatever writers do meanwhile, without a lock.  A commit takes in the packs that are not much larger than
// itself, so there are never more than about log2(bytes) of them.
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <boost/crc.hpp>
#include <cerrno>
#include <charconv>
#include <coffer/posix.hpp>
#include <coffer/storage.hpp>
#include <map>
#include <optional>

namespace {
using coffer::sdk::Call;
using coffer::sdk::Error;
using coffer::sdk::Fd;
using coffer::sdk::Options;
using coffer::sdk::view;

constexpr std::string_view kFormat = "coffer-storage-file 1\n";
constexpr std::string_view kPackMagic = "coffer-pack 1 ";
constexpr size_t kFirstLine = kPackMagic.size() + 10 + 1;  // the magic, the header's length, a newline
constexpr uint64_t kMaxHeader = 1u << 30;                  // beyond it a pack is not one of ours
constexpr uint64_t kDefaultPatienceNs = 30'000'000'000;    // for a call without a deadline
constexpr size_t kCachedSpaces = 4;

std::string named(std::string_view path) { return "'" + std::string(path) + "'"; }

[[noreturn]] void fail_errno(const std::string &what, int code) {
  coffer_status status = COFFER_UNAVAILABLE;
  if (code == EACCES || code == EPERM) status = COFFER_PERMISSION_DENIED;
  if (code == EROFS || code == ENOENT || code == ENOTDIR || code == ENAMETOOLONG)
    status = COFFER_FAILED_PRECONDITION;
  if (code == ENOSPC || code == EDQUOT || code == EMFILE || code == ENFILE || code == EFBIG)
    status = COFFER_RESOURCE_EXHAUSTED;
  throw Error{status, what + ": " + strerrordesc_np(code), "errno", code};
}

uint32_t crc(std::string_view data) {
  boost::crc_32_type sum;
  sum.process_bytes(data.data(), data.size());
  return sum.checksum();
}

// Ours, and nobody else may write: who can, can put anything there.
void check_owner(const struct stat &s, const std::string &what) {
  if (s.st_uid != ::geteuid())
    throw Error{COFFER_FAILED_PRECONDITION, what + " belongs to another user; run as its owner"};
  if (s.st_mode & (S_IWGRP | S_IWOTH))
    throw Error{COFFER_FAILED_PRECONDITION, what + " is writable by others; chmod go-w it"};
}

Fd open_folder(int at, const std::string &name, const std::string &what) {
  Fd fd(::openat(at, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOTDIR || errno == ELOOP)
      throw Error{COFFER_FAILED_PRECONDITION, what + " is not a folder"};
    fail_errno("cannot use " + what, errno);
  }
  struct stat s{};
  if (::fstat(fd.get(), &s) != 0) fail_errno("cannot use " + what, errno);
  check_owner(s, what);
  return fd;
}

void read_at(int fd, uint64_t offset, char *out, size_t size, const std::string &what) {
  while (size) {
    const ssize_t n = ::pread(fd, out, size, off_t(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("cannot read " + what, errno);
    if (n == 0) throw Error{COFFER_DATA_LOSS, what + " is truncated"};
    out += n;
    offset += uint64_t(n);
    size -= size_t(n);
  }
}

std::vector<std::string> names_in(int folder, const std::string &what) {
  const int fd = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno("cannot list " + what, errno);
  const std::unique_ptr<DIR, int (*)(DIR *)> dir(::fdopendir(fd), &::closedir);
  if (!dir) {
    const int code = errno;
    ::close(fd);
    fail_errno("cannot list " + what, code);
  }
  std::vector<std::string> out;
  errno = 0;
  while (const dirent *e = ::readdir(dir.get())) {
    const std::string_view name = e->d_name;
    if (name != "." && name != "..") out.emplace_back(name);
    errno = 0;
  }
  if (errno) fail_errno("cannot list " + what, errno);
  return out;
}

void sync(int fd, const std::string &what) {
  if (::fsync(fd) != 0) fail_errno("cannot write " + what, errno);
}

// A file that gets its name when it is whole and on the disk; without publish() nothing of it stays.
// REQUIRES: the caller holds the folder's lock, as there is one `new` per folder.
class NewFile {
 public:
  NewFile(int folder, std::string what) : folder_(folder), what_("cannot write " + std::move(what)) {
    ::unlinkat(folder_, "new", 0);  // of a writer that was killed
    fd_ = Fd(::openat(folder_, "new", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd_) fail_errno(what_, errno);
  }
  NewFile(const NewFile &) = delete;
  NewFile &operator=(const NewFile &) = delete;
  ~NewFile() {
    if (!published_) ::unlinkat(folder_, "new", 0);
  }

  void write(std::string_view data) {
    if (buffer_.size() + data.size() <= kBuffer) {
      buffer_.append(data);
      return;
    }
    flush();
    if (data.size() < kBuffer) {
      buffer_.append(data);
    } else {
      write_out(data);
    }
  }
  void publish(const std::string &name) {
    flush();
    if (::fsync(fd_.get()) != 0) fail_errno(what_, errno);
    if (::renameat(folder_, "new", folder_, name.c_str()) != 0) fail_errno(what_, errno);
    published_ = true;
    if (::fsync(folder_) != 0)
      throw Error{COFFER_UNKNOWN, what_ + " for certain: it is in place, but the folder could not be synced",
                  "errno", errno};
  }

 private:
  static constexpr size_t kBuffer = 256 * 1024;
  void flush() {
    write_out(buffer_);
    buffer_.clear();
  }
  void write_out(std::string_view data) {
    while (!data.empty()) {
      const ssize_t n = ::write(fd_.get(), data.data(), data.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) fail_errno(what_, n < 0 ? errno : EIO);
      data.remove_prefix(size_t(n));
    }
  }

  int folder_;
  std::string what_, buffer_;
  Fd fd_;
  bool published_ = false;
};

uint64_t now_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

// Until the folder's descriptor is closed.  The kernel releases it when its holder dies.
void lock(int folder, const Call &call, const std::string &what) {
  const uint64_t give_up = call.deadline_ns() ? call.deadline_ns() : now_ns() + kDefaultPatienceNs;
  for (int tries = 1; ::flock(folder, LOCK_EX | LOCK_NB) != 0; ++tries) {
    if (errno != EWOULDBLOCK && errno != EINTR) fail_errno("cannot lock " + what, errno);
    if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
    if (now_ns() >= give_up)
      throw Error{call.deadline_ns() ? COFFER_DEADLINE_EXCEEDED : COFFER_UNAVAILABLE,
                  what + " is locked by another process"};
    pollfd cancel{call.cancel_fd(), POLLIN, 0};
    const timespec pause{0, std::min(tries, 20) * 250'000};
    ::ppoll(&cancel, cancel.fd >= 0 ? 1 : 0, &pause, nullptr);
  }
}

template <class Int>
bool parse(std::string_view text, Int &out, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out, base);
  return error == std::errc() && end == text.data() + text.size();
}

// The part of `text` before `separator`, which is taken off.
std::string_view cut(std::string_view &text, char separator) {
  const size_t at = text.find(separator);
  const std::string_view head = text.substr(0, at);
  text.remove_prefix(at == text.npos ? text.size() : at + 1);
  return head;
}

std::string hex(uint32_t sum) {
  char out[9];
  ::snprintf(out, sizeof out, "%08x", sum);
  return out;
}

std::string pack_name(uint64_t number) {
  char out[32];
  ::snprintf(out, sizeof out, "%010llu.pack", static_cast<unsigned long long>(number));
  return out;
}
// 0 when it is not the name of a pack.
uint64_t pack_number(std::string_view name) {
  uint64_t n = 0;
  if (name.size() < 5 || !parse(name.substr(0, name.size() - 5), n) || pack_name(n) != name) return 0;
  return n;
}

// One key of one pack.
struct Entry {
  std::string_view key;
  uint64_t revision = 0, offset = 0, size = 0;  // offset: from the end of the header
  uint32_t sum = 0;
  bool live = false;  // false: deleted, hides the key in older packs
};

constexpr char kHead[] = "head.pack";

// A pack on the disk; never changes.
class Pack {
 public:
  // number 0: the head.  Answers nullptr when there is no such file.
  static std::unique_ptr<Pack> open(int folder, uint64_t number, std::string_view space) {
    auto self = std::make_unique<Pack>();
    const std::string file = number ? pack_name(number) : kHead;
    self->what_ = file + " of space " + named(space);
    self->number_ = number;
    self->fd_ = Fd(::openat(folder, file.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!self->fd_) {
      if (errno == ENOENT) return nullptr;
      if (errno == ELOOP || errno == ENXIO)
        throw Error{COFFER_FAILED_PRECONDITION, self->what_ + " is not a file"};
      fail_errno("cannot read " + self->what_, errno);
    }
    struct stat s{};
    if (::fstat(self->fd_.get(), &s) != 0) fail_errno("cannot read " + self->what_, errno);
    if (!S_ISREG(s.st_mode)) throw Error{COFFER_FAILED_PRECONDITION, self->what_ + " is not a file"};
    check_owner(s, self->what_);
    self->file_size_ = uint64_t(s.st_size);
    self->device_ = s.st_dev;
    self->inode_ = s.st_ino;
    self->load(space);
    return self;
  }

  uint64_t number() const { return number_; }
  // Our open descriptor keeps the inode from being given to another file.
  bool is(const struct stat &s) const { return s.st_dev == device_ && s.st_ino == inode_; }
  uint64_t file_size() const { return file_size_; }
  const std::vector<Entry> &entries() const { return entries_; }
  const std::vector<uint64_t> &bases() const { return bases_; }

  std::vector<Entry>::const_iterator from(std::string_view key) const {
    return std::lower_bound(entries_.begin(), entries_.end(), key,
                            [](const Entry &e, std::string_view k) { return e.key < k; });
  }
  const Entry *find(std::string_view key) const {
    const auto it = from(key);
    return it != entries_.end() && it->key == key ? &*it : nullptr;
  }
  void value(const Entry &e, std::string &out) const {
    out.resize(e.size);
    read_at(fd_.get(), header_.size() + e.offset, out.data(), e.size, what_);
    if (crc(out) != e.sum) throw Error{COFFER_DATA_LOSS, what_ + " is damaged; restore it from a backup"};
  }

 private:
  void load(std::string_view space) {
    const auto need = [&](bool ok) {
      if (!ok) throw Error{COFFER_DATA_LOSS, what_ + " is damaged; restore it from a backup"};
    };
    need(file_size_ >= kFirstLine);
    header_.resize(std::min<uint64_t>(file_size_, 4096));
    read_at(fd_.get(), 0, header_.data(), header_.size(), what_);
    uint64_t size = 0;
    need(header_.starts_with(kPackMagic) && header_[kFirstLine - 1] == '\n');
    need(parse(std::string_view(header_).substr(kPackMagic.size(), 10), size));
    need(size > kFirstLine + 13 && size <= file_size_ && size <= kMaxHeader);
    const size_t have = header_.size();
    header_.resize(size);
    if (size > have) read_at(fd_.get(), have, header_.data() + have, size - have, what_);

    std::string_view rest = header_;  // entries_ point into header_, which stays as it is
    std::string_view end = rest.substr(size - 13);
    rest.remove_suffix(13);
    uint32_t sum = 0;
    need(cut(end, ' ') == "end" && end.size() == 9 && end.back() == '\n' && parse(end.substr(0, 8), sum, 16));
    need(crc(rest) == sum);

    rest.remove_prefix(kFirstLine);
    std::string_view line = cut(rest, '\n');
    need(cut(line, ' ') == "space" && line == space);
    line = cut(rest, '\n');
    uint64_t number = 0;
    need(cut(line, ' ') == "revision" && parse(line, number) && number > 0);
    need(number_ == 0 || number == number_);  // a copy under a wrong name
    number_ = number;
    line = cut(rest, '\n');
    need(cut(line, ' ') == "bases");
    while (!line.empty()) {
      uint64_t base = 0;
      need(parse(cut(line, ' '), base) && base > 0 && base < (bases_.empty() ? number_ : bases_.back()));
      bases_.push_back(base);
    }
    uint64_t offset = 0;
    while (!rest.empty()) {
      line = cut(rest, '\n');
      Entry e;
      const std::string_view kind = cut(line, ' ');
      e.key = cut(line, ' ');
      need(!e.key.empty() && (entries_.empty() || entries_.back().key < e.key));
      if (kind == "put") {
        e.live = true;
        need(parse(cut(line, ' '), e.revision) && parse(cut(line, ' '), e.offset) &&
             parse(cut(line, ' '), e.size));
        need(parse(cut(line, ' '), e.sum, 16));
        need(e.revision > 0 && e.revision <= number_ && e.offset == offset && e.size <= file_size_);
        offset += e.size;
      } else {
        need(kind == "del");
      }
      need(line.empty());
      entries_.push_back(e);
    }
    need(header_.size() + offset == file_size_);
  }

  std::string what_, header_;
  uint64_t number_ = 0, file_size_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  Fd fd_;
  std::vector<uint64_t> bases_;
  std::vector<Entry> entries_;
};

// What a space holds: its head and the packs that the head stands on.
class Space {
 public:
  // Brings the view up to date with the folder.
  void refresh(int folder, std::string_view name) {
    struct stat s{};
    const std::string what = "space " + named(name);
    if (::fstat(folder, &s) != 0) fail_errno("cannot read " + what, errno);
    if (s.st_dev != device_ || s.st_ino != inode_) {
      chain_.clear();
      device_ = s.st_dev;
      inode_ = s.st_ino;
    }
    uint64_t head = 0, lacking = 0;  // the head found, and the one found before without all its packs
    for (bool again = false; !try_refresh(folder, name, &head); again = true) {
      // A commit has taken in a pack between our look at the head and at the pack; then there is another head
      // by now.  If not, somebody has removed the pack.
      if (again && lacking == head)
        throw Error{COFFER_DATA_LOSS, what + " lacks " + (head ? "a pack that its head stands on" : kHead) +
                                          "; restore it from a backup"};
      lacking = head;
    }
  }

  uint64_t revision() const { return chain_.empty() ? 0 : chain_.front()->number(); }
  const std::vector<std::unique_ptr<Pack>> &chain() const { return chain_; }

  std::pair<const Pack *, const Entry *> find(std::string_view key) const {
    for (const auto &pack : chain_)
      if (const Entry *e = pack->find(key)) return {pack.get(), e->live ? e : nullptr};
    return {nullptr, nullptr};
  }

  // Calls visit(pack, entry) for each live key >= from in order, until it answers false.
  template <class Visit>
  void each(std::string_view from, Visit &&visit) const {
    std::vector<std::pair<std::vector<Entry>::const_iterator, const Pack *>> at;
    for (const auto &pack : chain_) at.emplace_back(pack->from(from), pack.get());
    for (;;) {
      const Entry *least = nullptr;
      const Pack *owner = nullptr;
      for (const auto &[it, pack] : at)
        if (it != pack->entries().end() && (!least || it->key < least->key)) {
          least = &*it;  // the newest pack comes first and wins
          owner = pack;
        }
      if (!least) return;
      if (least->live && !visit(*owner, *least)) return;
      for (auto &[it, pack] : at)
        if (it != pack->entries().end() && it->key == least->key) ++it;
    }
  }
  bool empty() const {
    bool any = false;
    each("", [&](const Pack &, const Entry &) { return !(any = true); });
    return !any;
  }

 private:
  // false: a pack is missing.  Invariant: chain_ is a head and all that it stands on, or empty.
  bool try_refresh(int folder, std::string_view name, uint64_t *head) {
    struct stat s{};
    if (::fstatat(folder, kHead, &s, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno != ENOENT) fail_errno("cannot read space " + named(name), errno);
      chain_.clear();
      *head = 0;
      const std::vector<std::string> files = names_in(folder, "space " + named(name));
      return std::none_of(files.begin(), files.end(),
                          [](const std::string &f) { return pack_number(f) != 0; });
    }
    if (!chain_.empty() && chain_.front()->is(s)) return true;
    std::vector<std::unique_ptr<Pack>> known = std::exchange(chain_, {}), chain;
    chain.push_back(Pack::open(folder, 0, name));
    if (!chain.back()) return *head = 0, false;
    *head = chain.front()->number();
    for (const uint64_t number : chain.front()->bases()) {
      const auto have = std::find_if(known.begin(), known.end(),
                                     [&](const auto &pack) { return pack && pack->number() == number; });
      chain.push_back(have != known.end() ? std::move(*have) : Pack::open(folder, number, name));
      if (!chain.back()) return false;
    }
    chain_ = std::move(chain);
    return true;
  }

  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::vector<std::unique_ptr<Pack>> chain_;  // newest first
};

class StorageFile final : public coffer::sdk::Storage {
 public:
  static std::vector<std::string> validate(const Options &options) {
    const std::string_view path = options.get("path");
    if (path.empty()) return {"path is empty"};
    if (path.find('\0') != path.npos || path.find('\n') != path.npos)
      return {"path holds a NUL or a newline"};
    if (path.size() >= PATH_MAX) return {"path is too long"};
    return {};
  }

  static std::unique_ptr<Instance> open(const Call &call, const Options &options) {
    if (const auto wrong = validate(options); !wrong.empty())
      throw Error{COFFER_INVALID_ARGUMENT, wrong.front()};
    auto self = std::make_unique<StorageFile>();
    self->path_ = options.get("path");
    while (self->path_.size() > 1 && self->path_.back() == '/') self->path_.pop_back();
    self->read_only_ = options.read_only();
    self->check_parent();
    const std::string what = "folder " + named(self->path_);
    if (!self->read_only_ && ::mkdir(self->path_.c_str(), 0700) != 0 && errno != EEXIST)
      fail_errno("cannot make " + what, errno);
    const Fd root = open_folder(AT_FDCWD, self->path_, what);
    if (!self->format_is_known(root.get())) self->create(root.get(), call);
    self->spaces_ = open_folder(root.get(), "spaces", what + "/spaces");
    return self;
  }

  std::string probe(const Call &call) override {
    size_t n = 0;
    for (const std::string &name : space_names()) {
      Space space;
      space.refresh(space_folder(name).get(), name);
      std::string value;
      space.each("", [&](const Pack &pack, const Entry &e) {
        pack.value(e, value);
        if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
        return true;
      });
      ++n;
    }
    return "{\"spaces\":" + std::to_string(n) + "}";
  }

  void get(const Call &, std::string_view space, std::string_view key, const Values &emit) override {
    check_space(space, limits());
    check_key(key, limits());
    const Space *s = read(space);
    const auto [pack, entry] = s ? s->find(key) : std::pair<const Pack *, const Entry *>();
    if (!entry) throw Error{COFFER_NOT_FOUND, "no such key"};
    std::string value;
    pack->value(*entry, value);
    emit(key, entry->revision, value);
  }

  void list(const Call &call, std::string_view space, std::string_view prefix, std::string_view after,
            uint64_t limit, bool with_values, const Values &emit) override {
    check_space(space, limits());
    const Space *s = read(space);
    if (!s) return;
    uint64_t n = 0;
    std::string value;
    s->each(std::max(prefix, after), [&](const Pack &pack, const Entry &e) {
      if (!after.empty() && e.key == after) return true;
      if (!e.key.starts_with(prefix)) return false;
      if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
      if (with_values) pack.value(e, value);
      return emit(e.key, e.revision, value) && ++n != limit;
    });
  }

  uint64_t commit(const Call &call, const coffer_batch &batch) override {
    check_writable();
    const std::string_view name = view(batch.space);
    const std::vector<const coffer_op *> ops = sorted_ops(batch, limits());
    Fd folder = space_folder(name);
    if (!folder) {
      for (size_t i = 0; i < batch.n_pre; ++i) require(batch.pre[i]->revision == 0);
      folder = make_space_folder(name);
    }
    lock(folder.get(), call, "space " + named(name));
    const Space &space = refreshed(folder.get(), name);
    for (size_t i = 0; i < batch.n_pre; ++i) {
      const Entry *found = space.find(view(batch.pre[i]->key)).second;
      require(batch.pre[i]->revision == (found ? found->revision : 0));
    }
    std::vector<Record> records;
    records.reserve(ops.size());
    const uint64_t revision = space.revision() + 1;
    for (const coffer_op *op : ops) {
      Record r;
      r.entry.key = view(op->key);
      r.entry.live = op->kind == COFFER_OP_PUT;
      if (r.entry.live) {
        r.value = view(op->value);
        r.entry.revision = revision;
        r.entry.size = r.value.size();
        r.entry.sum = crc(r.value);
      }
      records.push_back(r);
    }
    write_pack(folder.get(), name, space, revision, std::move(records), true);
    return revision;
  }

  void spaces(const Call &, std::string_view prefix, const Spaces &emit) override {
    for (const std::string &name : space_names()) {
      if (!name.starts_with(prefix)) continue;
      try {
        Space space;
        space.refresh(space_folder(name).get(), name);
        if (space.empty()) continue;
      } catch (const Error &) {
        // Damaged: it is there all the same, and who reads it is told.
      }
      if (!emit(name)) return;
    }
  }

  void drop_space(const Call &call, std::string_view name) override {
    check_writable();
    check_space(name, limits());
    const Fd folder = space_folder(name);
    if (!folder) return;
    lock(folder.get(), call, "space " + named(name));
    const Space &space = refreshed(folder.get(), name);
    // The pack that says "nothing" stays, so that no revision comes twice.
    if (!space.empty()) write_pack(folder.get(), name, space, space.revision() + 1, {}, false);
  }

 private:
  // One line of a pack to be written, and where its value is.
  struct Record {
    Entry entry;
    std::string_view value;      // when pack is null
    const Pack *pack = nullptr;  // taken from there
    uint64_t offset = 0;         // in that pack
  };

  static void require(bool holds) {
    if (!holds) throw Error{COFFER_ABORTED, "another write came first"};
  }
  void check_writable() const {
    if (read_only_) throw Error{COFFER_FAILED_PRECONDITION, named(path_) + " is open for reading only"};
  }

  void check_parent() const {
    const size_t slash = path_.rfind('/');
    const std::string dir = slash == path_.npos ? "." : path_.substr(0, std::max<size_t>(slash, 1));
    struct stat s{};
    if (::stat(dir.c_str(), &s) != 0) fail_errno("cannot use folder " + named(dir), errno);
    if ((s.st_mode & S_IWOTH) && !(s.st_mode & S_ISVTX))
      throw Error{COFFER_FAILED_PRECONDITION,
                  "folder " + named(dir) + " is writable by everybody; chmod o-w it"};
    if (s.st_uid != ::geteuid() && s.st_uid != 0)
      throw Error{COFFER_FAILED_PRECONDITION,
                  "folder " + named(dir) + " belongs to another user; use one of your own"};
  }

  bool format_is_known(int root) const {
    const std::string what = named(path_ + "/FORMAT");
    const Fd fd(::openat(root, "FORMAT", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!fd) {
      if (errno == ENOENT) return false;
      fail_errno("cannot read " + what, errno);
    }
    struct stat s{};
    if (::fstat(fd.get(), &s) != 0) fail_errno("cannot read " + what, errno);
    if (!S_ISREG(s.st_mode)) throw Error{COFFER_FAILED_PRECONDITION, what + " is not a file"};
    std::string text(std::min<size_t>(size_t(s.st_size), 64), '\0');
    read_at(fd.get(), 0, text.data(), text.size(), what);
    if (text == kFormat) return true;
    if (text.starts_with(kFormat.substr(0, kFormat.size() - 2)))
      throw Error{COFFER_FAILED_PRECONDITION,
                  named(path_) + " was written by a newer version; upgrade Coffer"};
    throw Error{COFFER_DATA_LOSS, what + " is damaged; it must hold the line '" +
                                      std::string(kFormat.substr(0, kFormat.size() - 1)) + "'"};
  }

  void create(int root, const Call &call) const {
    const std::string what = "folder " + named(path_);
    if (read_only_) throw Error{COFFER_FAILED_PRECONDITION, "there is no vault in " + what};
    lock(root, call, what);
    if (format_is_known(root)) return;  // another process was faster
    for (const std::string &name : names_in(root, what)) {
      if (name == "new") continue;
      if (name == "spaces" && names_in(open_folder(root, name, what + "/spaces").get(), what).empty())
        continue;
      throw Error{COFFER_FAILED_PRECONDITION,
                  what + " is not empty and has no FORMAT file; name another path"};
    }
    if (::mkdirat(root, "spaces", 0700) != 0 && errno != EEXIST)
      fail_errno("cannot make " + what + "/spaces", errno);
    NewFile format(root, what);
    format.write(kFormat);
    format.publish("FORMAT");
    const Fd parent(::openat(root, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!parent) fail_errno("cannot open the parent of " + what, errno);
    sync(parent.get(), what);
  }

  // '/' is not for file names; ',' is in no name of a space.
  static std::string folder_name(std::string_view space) {
    std::string out(space);
    std::replace(out.begin(), out.end(), '/', ',');
    return out;
  }
  // Not ok() when there is none.
  Fd space_folder(std::string_view space) const {
    try {
      return open_folder(spaces_.get(), folder_name(space), "space " + named(space));
    } catch (const Error &e) {
      if (e.native_code == ENOENT) return Fd();
      throw;
    }
  }
  Fd make_space_folder(std::string_view space) const {
    const std::string what = "space " + named(space);
    if (::mkdirat(spaces_.get(), folder_name(space).c_str(), 0700) != 0 && errno != EEXIST)
      fail_errno("cannot make " + what, errno);
    sync(spaces_.get(), what);
    return open_folder(spaces_.get(), folder_name(space), what);
  }

  Space &refreshed(int folder, std::string_view name) {
    if (cache_.size() >= kCachedSpaces && !cache_.contains(std::string(name))) cache_.clear();
    Space &space = cache_[std::string(name)];
    space.refresh(folder, name);
    return space;
  }
  // nullptr when there is none.
  const Space *read(std::string_view name) {
    const Fd folder = space_folder(name);
    return folder ? &refreshed(folder.get(), name) : nullptr;
  }

  std::vector<std::string> space_names() const {
    std::vector<std::string> names = names_in(spaces_.get(), named(path_ + "/spaces"));
    for (std::string &name : names) std::replace(name.begin(), name.end(), ',', '/');
    std::erase_if(names, [](const std::string &name) { return !is_space(name, Limits()); });
    std::sort(names.begin(), names.end());
    return names;
  }

  // The records, together with what they hide of the packs that are not much larger than they, as one new
  // pack. keep = false: what the space held goes.
  static void write_pack(int folder, std::string_view name, const Space &space, uint64_t revision,
                         std::vector<Record> records, bool keep) {
    const auto &chain = space.chain();
    size_t taken = keep ? 0 : chain.size();
    uint64_t size = 200;
    for (const Record &r : records) size += r.entry.key.size() + r.entry.size + 40;
    for (; taken < chain.size() && chain[taken]->file_size() <= 2 * size; ++taken) {
      size += chain[taken]->file_size();
      records = merged(std::move(records), *chain[taken]);
    }
    std::string header = "space " + std::string(name) + "\nrevision " + std::to_string(revision) + "\nbases";
    for (size_t i = taken; i < chain.size(); ++i) header += " " + std::to_string(chain[i]->number());
    header += "\n";
    uint64_t offset = 0;
    for (const Record &r : records) {
      const Entry &e = r.entry;
      if (e.live) {
        header.append("put ").append(e.key).append(" ").append(std::to_string(e.revision));
        header.append(" ").append(std::to_string(offset)).append(" ").append(std::to_string(e.size));
        header.append(" ").append(hex(e.sum)).append("\n");
        offset += e.size;
      } else if (taken < chain.size()) {
        header.append("del ").append(e.key).append("\n");
      }
    }
    char first[kFirstLine + 1];
    ::snprintf(first, sizeof first, "%s%010zu\n", kPackMagic.data(), kFirstLine + header.size() + 13);
    header.insert(0, first);
    header += "end " + hex(crc(header)) + "\n";

    NewFile file(folder, "space " + named(name));
    file.write(header);
    std::string value;
    for (const Record &r : records) {
      if (r.pack) {
        Entry there = r.entry;
        there.offset = r.offset;
        r.pack->value(there, value);
        file.write(value);
      } else {
        file.write(r.value);
      }
    }
    std::vector<std::string> needed = {kHead};
    for (std::size_t i = taken; i < chain.size(); ++i) needed.push_back(pack_name(chain[i]->number()));
    if (taken == 0 && !chain.empty()) {
      // The old head stays, under its number.
      ::unlinkat(folder, needed[1].c_str(), 0);  // of a writer that was killed here
      if (::linkat(folder, kHead, folder, needed[1].c_str(), 0) != 0)
        fail_errno("cannot write space " + named(name), errno);
    }
    file.publish(kHead);
    // Packs that the head does not stand on go; what cannot be removed now is removed next time.
    try {
      for (const std::string &f : names_in(folder, {}))
        if (pack_number(f) && std::find(needed.begin(), needed.end(), f) == needed.end())
          ::unlinkat(folder, f.c_str(), 0);
    } catch (const Error &) {
    }
  }

  static std::vector<Record> merged(std::vector<Record> newer, const Pack &pack) {
    std::vector<Record> out;
    out.reserve(newer.size() + pack.entries().size());
    auto old = pack.entries().begin();
    const auto take = [&] { out.push_back({*old, {}, &pack, old->offset}); };
    for (Record &r : newer) {
      for (; old != pack.entries().end() && old->key < r.entry.key; ++old) take();
      if (old != pack.entries().end() && old->key == r.entry.key) ++old;
      out.push_back(r);
    }
    for (; old != pack.entries().end(); ++old) take();
    return out;
  }

  std::string path_;
  bool read_only_ = false;
  Fd spaces_;
  std::map<std::string, Space> cache_;  // packs never change, so what was parsed stays good
};

constexpr coffer_option kPath = {sizeof(coffer_option),
                                 COFFER_OPT_PATH,
                                 0,
                                 COFFER_OPTF_REQUIRED,
                                 "path",
                                 "the vault's folder; made when absent",
                                 nullptr,
                                 "vault",
                                 nullptr,
                                 0,
                                 -1};
constexpr const coffer_option *kOptions[] = {&kPath};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_STORAGE_ID, 0}};
constexpr coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                           0,
                                           "coffer.storage-file",
                                           "storage-file",
                                           "0.1.0",
                                           "Coffer",
                                           "Apache-2.0",
                                           "",
                                           "a folder per space, a pack file per commit",
                                           kInterfaces,
                                           1,
                                           kOptions,
                                           1};
}  // namespace

COFFER_PLUGIN(StorageFile, kDescriptor);
