// storage-sqlite: every space of the vault in one SQLite file.  See README.md.
//
// Durability: WAL with synchronous=FULL, so a commit is one fsync of the log.  SQLite would empty the log at
// each last close, which costs a process that makes one small commit four more; so it is kept, and emptied at
// a close that finds it longer than kCheckpointPages.  What the next open has to read again thus stays small.
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Exception.h>
#include <SQLiteCpp/Statement.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <coffer/posix.hpp>
#include <coffer/storage.hpp>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

namespace {
using coffer::sdk::Call;
using coffer::sdk::Error;
using coffer::sdk::Fd;
using coffer::sdk::Options;
using coffer::sdk::view;

constexpr int kApplicationId = 0x43464652;  // "CFFR"
constexpr int kSchema = 1;
constexpr int kCheckpointPages = 128;
constexpr int kCacheKb = 8000;
constexpr uint64_t kDefaultPatienceNs = 30'000'000'000;  // for a call without a deadline

// A record's space and key lead its row and the rows of a space lie side by side in key order.  `head` counts
// commits over all spaces, so that a revision is not reused when a space is dropped and made again.
constexpr char kCreate[] =
    "CREATE TABLE record(space TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, value BLOB NOT "
    "NULL,"
    " PRIMARY KEY(space, key)) WITHOUT ROWID;"
    "CREATE TABLE head(id INTEGER PRIMARY KEY CHECK(id = 1), revision INTEGER NOT NULL);"
    "INSERT INTO head VALUES(1, 0);";

std::string named(std::string_view path) { return "'" + std::string(path) + "'"; }

[[noreturn]] void refuse(coffer_status status, std::string message) {
  throw Error{status, std::move(message)};
}

[[noreturn]] void fail_errno(const std::string &what, int code) {
  coffer_status status = COFFER_UNAVAILABLE;
  if (code == EACCES || code == EPERM || code == EROFS) status = COFFER_PERMISSION_DENIED;
  if (code == ENOSPC || code == EDQUOT || code == EMFILE || code == ENFILE || code == EFBIG)
    status = COFFER_RESOURCE_EXHAUSTED;
  if (code == ENOENT || code == ENOTDIR || code == ENAMETOOLONG) status = COFFER_FAILED_PRECONDITION;
  throw Error{status, what + ": " + strerrordesc_np(code), "errno", code};
}

// Foreign owners and writers are refused: who can write there can put another file in its place.
void check_folder(const std::string &dir) {
  struct stat s{};
  if (::stat(dir.c_str(), &s) != 0) fail_errno("cannot use folder " + named(dir), errno);
  if (!S_ISDIR(s.st_mode)) refuse(COFFER_FAILED_PRECONDITION, named(dir) + " is not a folder");
  if (s.st_uid != ::geteuid() && s.st_uid != 0)
    refuse(COFFER_FAILED_PRECONDITION,
           "folder " + named(dir) + " belongs to another user; use one of your own");
  if ((s.st_mode & S_IWOTH) && !(s.st_mode & S_ISVTX))
    refuse(COFFER_FAILED_PRECONDITION, "folder " + named(dir) + " is writable by everybody; chmod o-w it");
}

bool check_file(const std::string &path) {
  struct stat s{};
  if (::lstat(path.c_str(), &s) != 0) {
    if (errno == ENOENT) return false;
    fail_errno("cannot use " + named(path), errno);
  }
  if (!S_ISREG(s.st_mode)) refuse(COFFER_FAILED_PRECONDITION, named(path) + " is not a regular file");
  if (s.st_uid != ::geteuid())
    refuse(COFFER_FAILED_PRECONDITION, named(path) + " belongs to another user; run as its owner");
  if (s.st_mode & (S_IWGRP | S_IWOTH))
    refuse(COFFER_FAILED_PRECONDITION, named(path) + " is writable by others; chmod 600 it");
  if (s.st_size == 0)
    refuse(COFFER_DATA_LOSS, named(path) + " is empty, a vault never is; restore it or remove it");
  return true;
}

// A new database comes into being whole or not at all: made in memory, written to a nameless file, linked.
void create(const std::string &dir, const std::string &path) {
  SQLite::Database memory(":memory:", SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
  memory.exec(kCreate);
  memory.exec("PRAGMA application_id=" + std::to_string(kApplicationId) +
              "; PRAGMA user_version=" + std::to_string(kSchema));
  sqlite3_int64 size = 0;
  const std::unique_ptr<unsigned char, void (*)(void *)> image(
      sqlite3_serialize(memory.getHandle(), "main", &size, 0), &sqlite3_free);
  if (!image) throw std::bad_alloc();
  image.get()[18] = image.get()[19] =
      2;  // SPEC: sqlite.org/fileformat.html 1.3.3, read and write version 2 = WAL

  const std::string what = "cannot create " + named(path);
  const Fd folder(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) fail_errno(what, errno);
  std::string temporary;
  Fd file(::openat(folder.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!file && (errno == EOPNOTSUPP || errno == EISDIR)) {
    temporary = path + ".new-" + std::to_string(::getpid());
    file = Fd(::open(temporary.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600));
  }
  if (!file) fail_errno(what, errno);
  int code = ::fchmod(file.get(), 0600) == 0 ? 0 : errno;
  for (sqlite3_int64 at = 0; !code && at < size;) {
    const ssize_t n = ::write(file.get(), image.get() + at, size_t(size - at));
    if (n < 0 && errno != EINTR) code = errno;
    if (n > 0) at += n;
  }
  if (!code && ::fsync(file.get()) != 0) code = errno;
  const std::string from = temporary.empty() ? "/proc/self/fd/" + std::to_string(file.get()) : temporary;
  if (!code && ::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) != 0 &&
      errno != EEXIST)
    code = errno;  // EEXIST: another process was faster, its file is as good
  if (!temporary.empty()) ::unlink(temporary.c_str());
  if (!code && ::fsync(folder.get()) != 0) code = errno;
  if (code) fail_errno(what, code);
}

uint64_t now_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

// Until when a call waits for others.
uint64_t end_of(const Call &call) {
  return call.deadline_ns() ? call.deadline_ns() : now_ns() + kDefaultPatienceNs;
}

Error locked(const Call &call, const std::string &path, int code) {
  if (call.cancelled()) return {COFFER_CANCELLED, named(path) + ": cancelled", "sqlite", code};
  return {call.deadline_ns() ? COFFER_DEADLINE_EXCEEDED : COFFER_UNAVAILABLE,
          named(path) + " is locked by another process", "sqlite", code};
}

// What SQLite throws, with a text that is ours: its own could quote its input.
Error translated(const Call &call, const std::string &path, const SQLite::Exception &e) {
  const auto say = [&](coffer_status s, const std::string &text) {
    return Error{s, named(path) + text, "sqlite", e.getExtendedErrorCode()};
  };
  switch (e.getErrorCode() & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return locked(call, path, e.getExtendedErrorCode());
    case SQLITE_FULL:
      return say(COFFER_RESOURCE_EXHAUSTED, " cannot grow: the disk is full");
    case SQLITE_NOMEM:
      return say(COFFER_RESOURCE_EXHAUSTED, ": out of memory");
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return say(COFFER_FAILED_PRECONDITION, " cannot be written: the file or its file system is read-only");
    case SQLITE_CANTOPEN:
      return say(COFFER_UNAVAILABLE,
                 " cannot be opened; check its folder's permissions and free descriptors");
    case SQLITE_CORRUPT:
    case SQLITE_FORMAT:
      return say(COFFER_DATA_LOSS, " is damaged; restore it from a backup");
    case SQLITE_NOTADB:
      return say(COFFER_DATA_LOSS, " is not a database; restore it from a backup or name another path");
    case SQLITE_IOERR:
      return say(COFFER_UNAVAILABLE, ": the disk answered with an error");
    case SQLITE_ERROR:  // the tables are not those of the schema number
      return say(COFFER_DATA_LOSS, " is damaged; restore it from a backup");
    default:
      return say(COFFER_INTERNAL, ": unexpected answer of the database");
  }
}

// One connection to the file, with its statements.  One thread at a time.
class Connection {
 public:
  // For one call: its deadline rules how long SQLite waits for other processes.
  class Use {
   public:
    Use(Connection &c, const Call &call) : connection_(c), before_(std::exchange(c.call_, &call)) {
      c.give_up_ns_ = end_of(call);
    }
    Use(const Use &) = delete;
    Use &operator=(const Use &) = delete;
    ~Use() { connection_.call_ = before_; }

   private:
    Connection &connection_;
    const Call *const before_;
  };

  // `cache_kb`: of pages that are kept.
  Connection(const Call &call, const std::string &path, bool read_only, int cache_kb)
      : db_(path, (read_only ? SQLite::OPEN_READONLY : SQLite::OPEN_READWRITE) | SQLite::OPEN_NOMUTEX |
                      SQLite::OPEN_NOFOLLOW) {
    sqlite3 *raw = db_.getHandle();
    sqlite3_busy_handler(raw, &on_busy, this);
    for (const int off :
         {SQLITE_DBCONFIG_ENABLE_TRIGGER, SQLITE_DBCONFIG_ENABLE_VIEW, SQLITE_DBCONFIG_TRUSTED_SCHEMA})
      sqlite3_db_config(raw, off, 0, nullptr);
    sqlite3_db_config(raw, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    sqlite3_db_config(raw, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    sqlite3_wal_autocheckpoint(raw, kCheckpointPages);

    const Use use(*this, call);
    if (db_.execAndGet("PRAGMA application_id").getInt() != kApplicationId)
      refuse(COFFER_FAILED_PRECONDITION, named(path) + " is a database, but not a vault of storage-sqlite");
    const int schema = db_.execAndGet("PRAGMA user_version").getInt();
    if (schema > kSchema)
      refuse(COFFER_FAILED_PRECONDITION, named(path) + " was written by a newer version (schema " +
                                             std::to_string(schema) + "); upgrade Coffer");
    if (schema < kSchema) refuse(COFFER_DATA_LOSS, named(path) + " is damaged; restore it from a backup");
    db_.exec("PRAGMA synchronous=FULL; PRAGMA cache_size=-" + std::to_string(cache_kb));
  }

  SQLite::Database &db() { return db_; }

  struct Row {
    uint64_t revision = 0;
    std::string value;
  };
  std::optional<Row> get(std::string_view space, std::string_view key) {
    SQLite::Statement &q = prepared(get_, "SELECT revision, value FROM record WHERE space=? AND key=?");
    const Reset reset{q};
    bind(q, 1, space);
    bind(q, 2, key);
    if (!q.executeStep()) return std::nullopt;
    return Row{uint64_t(q.getColumn(0).getInt64()), std::string(blob(q, 1))};
  }

  // In a transaction.  ABORTED before anything was written: a precondition does not hold.
  uint64_t apply(const coffer_batch &batch, const std::vector<const coffer_op *> &ops) {
    const std::string space(view(batch.space));
    SQLite::Statement &find = prepared(find_, "SELECT revision FROM record WHERE space=? AND key=?");
    for (size_t i = 0; i < batch.n_pre; ++i) {
      const Reset reset{find};
      bind(find, 1, space);
      bind(find, 2, view(batch.pre[i]->key));
      const uint64_t found = find.executeStep() ? uint64_t(find.getColumn(0).getInt64()) : 0;
      if (found != batch.pre[i]->revision) throw Error{COFFER_ABORTED, "another write came first"};
    }
    const int64_t revision = next_revision();
    std::string key;  // one for all, as a batch may have many
    for (const coffer_op *op : ops) {
      const bool put = op->kind == COFFER_OP_PUT;
      SQLite::Statement &s = put ? prepared(put_, "INSERT OR REPLACE INTO record VALUES(?, ?, ?, ?)")
                                 : prepared(delete_, "DELETE FROM record WHERE space=? AND key=?");
      const Reset reset{s};
      key = view(op->key);
      s.bindNoCopy(1, space);
      s.bindNoCopy(2, key);
      if (put) {
        s.bind(3, revision);
        s.bindNoCopy(4, op->value.size ? static_cast<const void *>(op->value.data) : "", int(op->value.size));
      }
      s.exec();
    }
    return uint64_t(revision);
  }

  uint64_t drop(std::string_view space) {
    SQLite::Statement drop(db_, "DELETE FROM record WHERE space=?");
    bind(drop, 1, space);
    return drop.exec() == 0 ? 0 : uint64_t(next_revision());
  }

  // The log has grown, and nobody may come soon who empties it.
  void checkpoint() {
    get_.reset(), find_.reset(), put_.reset(), delete_.reset(), next_.reset();
    // In use by others: some other close will do it.
    sqlite3_busy_handler(db_.getHandle(), nullptr, nullptr);
    sqlite3_wal_checkpoint_v2(db_.getHandle(), nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
  }

  static void bind(SQLite::Statement &s, int at, std::string_view text) { s.bind(at, std::string(text)); }
  static std::string_view blob(SQLite::Statement &s, int at) {
    const SQLite::Column column = s.getColumn(at);
    const void *data = column.getBlob();
    return {data ? static_cast<const char *>(data) : "", size_t(column.getBytes())};
  }

 private:
  struct Reset {
    SQLite::Statement &statement;
    ~Reset() {
      statement.tryReset();
      statement.clearBindings();  // values are bound without a copy
    }
  };

  int64_t next_revision() {
    SQLite::Statement &next =
        prepared(next_, "UPDATE head SET revision=revision+1 WHERE id=1 RETURNING revision");
    const Reset reset{next};
    if (!next.executeStep())
      refuse(COFFER_DATA_LOSS, named(db_.getFilename()) + " has lost its head; restore it from a backup");
    const int64_t revision = next.getColumn(0).getInt64();
    next.executeStep();
    return revision;
  }

  SQLite::Statement &prepared(std::optional<SQLite::Statement> &slot, const char *sql) {
    if (!slot) slot.emplace(db_, sql);
    return *slot;
  }

  // Another process holds the lock: wait a little, as long as the call lasts.
  static int on_busy(void *self_, int tries) {
    auto *self = static_cast<Connection *>(self_);
    if (!self->call_ || self->call_->cancelled() || now_ns() >= self->give_up_ns_) return 0;
    pollfd cancel{self->call_->cancel_fd(), POLLIN, 0};
    const timespec pause{0, std::min(tries + 1, 20) * 250'000};
    ::ppoll(&cancel, cancel.fd >= 0 ? 1 : 0, &pause, nullptr);
    return 1;
  }

  const Call *call_ = nullptr;  // that is being served
  uint64_t give_up_ns_ = 0;
  SQLite::Database db_;
  std::optional<SQLite::Statement> get_, find_, put_, delete_, next_;  // after db_: they go first
};

// What the instances of one process have together for one file: two connections, whose pages stay good as
// long as nobody else writes, one of them for reading meanwhile; and their writes, which are committed in one
// transaction when they come at once: one sync of the log for all of them.  Thread-safe.
class Shared {
 public:
  // One for each file that is open, by what it is and not by its name.
  static std::shared_ptr<Shared> of(const Call &call, const std::string &path) {
    struct stat st{};
    if (::stat(path.c_str(), &st) != 0) fail_errno("cannot use " + named(path), errno);
    static std::mutex mutex;
    static std::map<std::pair<dev_t, ino_t>, std::weak_ptr<Shared>> all;
    std::shared_ptr<Shared> shared;
    {
      const std::lock_guard lock(mutex);
      std::erase_if(all, [](const auto &s) { return s.second.expired(); });
      auto &known = all[{st.st_dev, st.st_ino}];
      shared = known.lock();
      if (!shared) known = shared = std::make_shared<Shared>(path);
    }
    const std::lock_guard lock(shared->mutex_);
    if (!shared->main_) shared->main_.emplace(call, path, false, kCacheKb);
    return shared;
  }

  explicit Shared(std::string path) : path_(std::move(path)) {}
  ~Shared() {
    struct stat log{};
    if (main_ && ::stat((path_ + "-wal").c_str(), &log) == 0 && log.st_size >= kCheckpointPages * 4096)
      main_->checkpoint();
  }

  // The connection, if nobody is at it now.
  class Lease {
   public:
    explicit Lease(Shared *of) : of_(of) {}
    Lease(Lease &&o) noexcept : of_(std::exchange(o.of_, nullptr)) {}
    ~Lease() {
      if (!of_) return;
      const std::lock_guard lock(of_->mutex_);
      of_->in_use_ = false;
    }
    explicit operator bool() const { return of_; }
    Connection &operator*() const { return *of_->main_; }

   private:
    Shared *of_;
  };
  Lease lease() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(in_use_, true)) return Lease(nullptr);
    return Lease(this);
  }

  std::optional<Connection::Row> get(const Call &call, std::string_view space, std::string_view key) {
    const auto from = [&](Connection &c) {
      const Connection::Use use(c, call);
      return c.get(space, key);
    };
    if (const Lease leased = lease()) return from(*leased);
    const std::lock_guard lock(reading_);
    if (!reader_) reader_.emplace(call, path_, false, kCacheKb / 4);
    return from(*reader_);
  }

  // Done when it returns, in a transaction in which others may be done as well.  `body` throws
  // ABORTED only before it has written anything.  `own`: the connection for when the one that is shared is in
  // use.
  uint64_t write(const Call &call, const std::function<Connection &()> &own,
                 const std::function<uint64_t(Connection &)> &body) {
    Job mine{body};
    std::unique_lock lock(mutex_);
    queue_.push_back(&mine);
    const uint64_t end = end_of(call);
    // The first one leads, as soon as nobody does: it does the work of all that have come by then.
    while (!mine.done && (leading_ || queue_.front() != &mine)) {
      constexpr auto kLook = std::chrono::milliseconds(20);  // whether the call was cancelled
      if (mine.turn.wait_for(lock, kLook) == std::cv_status::no_timeout || mine.taken) continue;
      if (!call.cancelled() && now_ns() < end) continue;
      std::erase(queue_, &mine);
      wake_first();
      throw locked(call, path_, SQLITE_BUSY);
    }
    if (!mine.done) {
      leading_ = true;
      std::vector<Job *> group;
      while (!queue_.empty() && group.size() < kMostAtOnce) {
        group.push_back(queue_.front());
        queue_.pop_front();
        group.back()->taken = true;
      }
      lock.unlock();
      do_all(call, own, group);
      lock.lock();
      leading_ = false;
      for (auto j = group.rbegin(); j != group.rend(); ++j) {
        if ((*j)->done) {
          (*j)->turn.notify_one();
        } else {
          (*j)->taken = false;
          queue_.push_front(*j);
        }
      }
      wake_first();
    }
    lock.unlock();
    if (mine.failed) std::rethrow_exception(mine.failed);
    return mine.revision;
  }

 private:
  static constexpr size_t kMostAtOnce = 64;
  struct Job {
    const std::function<uint64_t(Connection &)> &body;
    std::condition_variable turn;  // to lead, or done
    bool taken = false, done = false;
    uint64_t revision = 0;
    std::exception_ptr failed;
  };

  void wake_first() {
    if (!leading_ && !queue_.empty()) queue_.front()->turn.notify_one();
  }

  // One of them is the caller's, the first one.  Those that are not `done` behind it were not touched.
  void do_all(const Call &call, const std::function<Connection &()> &own, const std::vector<Job *> &jobs) {
    const Lease leased = lease();
    try {
      Connection &c = leased ? *leased : own();
      const Connection::Use use(c, call);
      if (jobs.size() > 1 && together(c, jobs)) return;
      // One of them cannot be done.  Each by itself says which.
      for (Job *j : jobs) {
        try {
          together(c, {j});
        } catch (...) {
          j->failed = std::current_exception();
          j->done = true;
        }
      }
    } catch (...) {  // there is no connection, or others have the file: that is for each of them to find out
      jobs.front()->failed = std::current_exception();
      jobs.front()->done = true;
    }
  }

  // In one transaction.  False: nothing of it was done, and it was more than one.
  static bool together(Connection &c, const std::vector<Job *> &jobs) {
    // BEGIN IMMEDIATE, so that what the preconditions saw still holds at the end.
    c.db().exec("BEGIN IMMEDIATE");
    try {
      for (Job *j : jobs) {
        try {
          j->revision = j->body(c);
        } catch (const Error &e) {
          if (e.status != COFFER_ABORTED) throw;
          j->failed = std::current_exception();
        }
      }
      c.db().exec("COMMIT");
    } catch (...) {
      if (!sqlite3_get_autocommit(c.db().getHandle())) c.db().tryExec("ROLLBACK");
      if (jobs.size() == 1) throw;
      for (Job *j : jobs) j->failed = nullptr;
      return false;
    }
    for (Job *j : jobs) j->done = true;
    return true;
  }

  const std::string path_;
  std::mutex mutex_;
  std::optional<Connection> main_;
  bool in_use_ = false;  // main_
  std::mutex reading_;
  std::optional<Connection> reader_;
  bool leading_ = false;
  std::deque<Job *> queue_;
};

class StorageSqlite final : public coffer::sdk::Storage {
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
    if (const auto wrong = validate(options); !wrong.empty()) refuse(COFFER_INVALID_ARGUMENT, wrong.front());
    std::string path(options.get("path"));
    const size_t slash = path.rfind('/');
    std::string dir = slash == path.npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
    char real[PATH_MAX];
    if (!::realpath(dir.c_str(), real)) fail_errno("cannot use folder " + named(dir), errno);
    dir = real;
    path = (dir == "/" ? "" : dir) + "/" + (slash == path.npos ? path : path.substr(slash + 1));

    check_folder(dir);
    if (!check_file(path)) {
      if (options.read_only()) refuse(COFFER_FAILED_PRECONDITION, "there is no " + named(path));
      create(dir, path);
      check_file(path);
    }
    auto self = std::make_unique<StorageSqlite>();
    self->path_ = std::move(path);
    self->read_only_ = options.read_only();
    self->ours(call, [&] {
      if (self->read_only_)
        self->own(call);
      else
        self->shared_ = Shared::of(call, self->path_);
    });
    return self;
  }

  std::string probe(const Call &call) override {
    return with(call, [&](Connection &c) {
      SQLite::Statement check(c.db(), "PRAGMA quick_check(1)");
      if (!check.executeStep() || check.getColumn(0).getString() != "ok")
        refuse(COFFER_DATA_LOSS, named(path_) + " is damaged; restore it from a backup");
      return "{\"revision\":" + std::to_string(c.db().execAndGet("SELECT revision FROM head").getInt64()) +
             "}";
    });
  }

  void get(const Call &call, std::string_view space, std::string_view key, const Values &emit) override {
    check_space(space, limits());
    check_key(key, limits());
    const auto row = ours(call, [&] {
      if (shared_) return shared_->get(call, space, key);
      const Connection::Use use(own(call), call);
      return own_->get(space, key);
    });
    if (!row) throw Error{COFFER_NOT_FOUND, "no such key"};
    emit(key, row->revision, row->value);
  }

  void list(const Call &call, std::string_view space, std::string_view prefix, std::string_view after,
            uint64_t limit, bool with_values, const Values &emit) override {
    check_space(space, limits());
    with(call, [&](Connection &c) {
      SQLite::Statement q(
          c.db(), std::string("SELECT key, revision") + (with_values ? ", value" : "") +
                      " FROM record WHERE space=? AND key>=? AND key>? AND key<? ORDER BY key LIMIT ?");
      const std::string end = std::string(prefix) + '\xff';  // keys are ASCII
      Connection::bind(q, 1, space);
      Connection::bind(q, 2, prefix);
      Connection::bind(q, 3, after);
      Connection::bind(q, 4, end);
      q.bind(5, limit == 0 || limit > INT64_MAX ? int64_t(-1) : int64_t(limit));
      while (q.executeStep()) {
        const SQLite::Column key = q.getColumn(0);
        if (!emit({key.getText(), size_t(key.getBytes())}, uint64_t(q.getColumn(1).getInt64()),
                  with_values ? Connection::blob(q, 2) : std::string_view()))
          break;
        if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
      }
    });
  }

  uint64_t commit(const Call &call, const coffer_batch &batch) override {
    check_writable();
    // In key order the rows of a large batch go to neighbouring pages.
    const std::vector<const coffer_op *> ops = sorted_ops(batch, limits());
    return write(call, [&](Connection &c) { return c.apply(batch, ops); });
  }

  void spaces(const Call &call, std::string_view prefix, const Spaces &emit) override {
    with(call, [&](Connection &c) {
      // From one space to the next by a seek each, not by reading every record.
      SQLite::Statement q(
          c.db(),
          "WITH RECURSIVE s(name) AS (SELECT min(space) FROM record WHERE space>=?1 UNION ALL "
          "SELECT (SELECT min(space) FROM record WHERE space>s.name) FROM s WHERE s.name NOT NULL) "
          "SELECT name FROM s WHERE name NOT NULL AND name<?2");
      const std::string end = std::string(prefix) + '\xff';
      Connection::bind(q, 1, prefix);
      Connection::bind(q, 2, end);
      while (q.executeStep()) {
        const SQLite::Column name = q.getColumn(0);
        if (!emit({name.getText(), size_t(name.getBytes())})) break;
      }
    });
  }

  void drop_space(const Call &call, std::string_view space) override {
    check_space(space, limits());
    check_writable();
    write(call, [&](Connection &c) { return c.drop(space); });
  }

 private:
  template <class F>
  auto ours(const Call &call, F &&body) const -> decltype(body()) {
    try {
      return body();
    } catch (const SQLite::Exception &e) {
      throw translated(call, path_, e);
    }
  }

  // A connection of this instance alone: for reading only, or while the one that is shared is in use.
  Connection &own(const Call &call) {
    if (!own_) own_.emplace(call, path_, read_only_, read_only_ ? kCacheKb : kCacheKb / 16);
    return *own_;
  }

  template <class F>
  auto with(const Call &call, F &&body) -> decltype(body(std::declval<Connection &>())) {
    return ours(call, [&] {
      const Shared::Lease leased = shared_ ? shared_->lease() : Shared::Lease(nullptr);
      Connection &c = leased ? *leased : own(call);
      const Connection::Use use(c, call);
      return body(c);
    });
  }

  uint64_t write(const Call &call, const std::function<uint64_t(Connection &)> &body) {
    return ours(call,
                [&] { return shared_->write(call, [&]() -> Connection & { return own(call); }, body); });
  }

  void check_writable() const {
    if (read_only_) refuse(COFFER_FAILED_PRECONDITION, named(path_) + " is open for reading only");
  }

  std::string path_;
  bool read_only_ = false;
  std::optional<Connection> own_;
  std::shared_ptr<Shared> shared_;  // unless for reading only
};

constexpr coffer_option kPath = {sizeof(coffer_option),
                                 COFFER_OPT_PATH,
                                 0,
                                 COFFER_OPTF_REQUIRED,
                                 "path",
                                 "the database file; made when absent",
                                 nullptr,
                                 "vault.db",
                                 nullptr,
                                 0,
                                 -1};
constexpr const coffer_option *kOptions[] = {&kPath};
constexpr coffer_interface_ref kInterfaces[] = {{COFFER_STORAGE_ID, 0}};
constexpr coffer_descriptor kDescriptor = {sizeof(coffer_descriptor),
                                           0,
                                           "coffer.storage-sqlite",
                                           "storage-sqlite",
                                           "0.1.0",
                                           "Coffer",
                                           "Apache-2.0",
                                           "",
                                           "one SQLite file for all spaces",
                                           kInterfaces,
                                           1,
                                           kOptions,
                                           1};
}  // namespace

COFFER_PLUGIN(StorageSqlite, kDescriptor);
