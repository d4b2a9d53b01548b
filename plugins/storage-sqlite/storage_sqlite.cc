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
#include <SQLiteCpp/Transaction.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <coffer/posix.hpp>
#include <coffer/storage.hpp>
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
    self->turn_ = turn_of(self->path_);
    self->read_only_ = options.read_only();
    self->with(call, [&] { self->connect(); });
    return self;
  }

  ~StorageSqlite() override {
    struct stat log{};
    if (!db_ || read_only_ || ::stat((path_ + "-wal").c_str(), &log) != 0 ||
        log.st_size < kCheckpointPages * 4096)
      return;
    get_.reset(), find_.reset(), put_.reset(), delete_.reset(), next_.reset();
    sqlite3_busy_handler(db_->getHandle(), nullptr,
                         nullptr);  // in use by others: some other close will do it
    sqlite3_wal_checkpoint_v2(db_->getHandle(), nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
  }

  std::string probe(const Call &call) override {
    return with(call, [&] {
      SQLite::Statement check(*db_, "PRAGMA quick_check(1)");
      if (!check.executeStep() || check.getColumn(0).getString() != "ok")
        refuse(COFFER_DATA_LOSS, named(path_) + " is damaged; restore it from a backup");
      return "{\"revision\":" + std::to_string(db_->execAndGet("SELECT revision FROM head").getInt64()) + "}";
    });
  }

  void get(const Call &call, std::string_view space, std::string_view key, const Values &emit) override {
    check_space(space, limits());
    check_key(key, limits());
    with(call, [&] {
      SQLite::Statement &q = prepared(get_, "SELECT revision, value FROM record WHERE space=? AND key=?");
      const Reset reset{q};
      bind(q, 1, space);
      bind(q, 2, key);
      if (!q.executeStep()) throw Error{COFFER_NOT_FOUND, "no such key"};
      emit(key, uint64_t(q.getColumn(0).getInt64()), blob(q, 1));
    });
  }

  void list(const Call &call, std::string_view space, std::string_view prefix, std::string_view after,
            uint64_t limit, bool with_values, const Values &emit) override {
    check_space(space, limits());
    with(call, [&] {
      SQLite::Statement q(
          *db_, std::string("SELECT key, revision") + (with_values ? ", value" : "") +
                    " FROM record WHERE space=? AND key>=? AND key>? AND key<? ORDER BY key LIMIT ?");
      const std::string end = std::string(prefix) + '\xff';  // keys are ASCII
      bind(q, 1, space);
      bind(q, 2, prefix);
      bind(q, 3, after);
      bind(q, 4, end);
      q.bind(5, limit == 0 || limit > INT64_MAX ? int64_t(-1) : int64_t(limit));
      while (q.executeStep()) {
        const SQLite::Column key = q.getColumn(0);
        if (!emit({key.getText(), size_t(key.getBytes())}, uint64_t(q.getColumn(1).getInt64()),
                  with_values ? blob(q, 2) : std::string_view()))
          break;
        if (call.cancelled()) throw Error{COFFER_CANCELLED, "cancelled"};
      }
    });
  }

  uint64_t commit(const Call &call, const coffer_batch &batch) override {
    const std::string_view space = view(batch.space);
    check_writable();
    // In key order the rows of a large batch go to neighbouring pages.
    const std::vector<const coffer_op *> ops = sorted_ops(batch, limits());

    return with(call, [&] {
      Write write(*this);
      SQLite::Statement &find = prepared(find_, "SELECT revision FROM record WHERE space=? AND key=?");
      for (size_t i = 0; i < batch.n_pre; ++i) {
        const Reset reset{find};
        bind(find, 1, space);
        bind(find, 2, view(batch.pre[i]->key));
        const uint64_t found = find.executeStep() ? uint64_t(find.getColumn(0).getInt64()) : 0;
        if (found != batch.pre[i]->revision) throw Error{COFFER_ABORTED, "another write came first"};
      }
      const int64_t revision = next_revision();
      const std::string space_text(space);
      std::string key;  // one for all, as a batch may have many
      for (const coffer_op *op : ops) {
        const bool put = op->kind == COFFER_OP_PUT;
        SQLite::Statement &s = put ? prepared(put_, "INSERT OR REPLACE INTO record VALUES(?, ?, ?, ?)")
                                   : prepared(delete_, "DELETE FROM record WHERE space=? AND key=?");
        const Reset reset{s};
        key = view(op->key);
        s.bindNoCopy(1, space_text);
        s.bindNoCopy(2, key);
        if (put) {
          s.bind(3, revision);
          s.bindNoCopy(4, op->value.size ? static_cast<const void *>(op->value.data) : "",
                       int(op->value.size));
        }
        s.exec();
      }
      write.commit();
      return uint64_t(revision);
    });
  }

  void spaces(const Call &call, std::string_view prefix, const Spaces &emit) override {
    with(call, [&] {
      // From one space to the next by a seek each, not by reading every record.
      SQLite::Statement q(
          *db_,
          "WITH RECURSIVE s(name) AS (SELECT min(space) FROM record WHERE space>=?1 UNION ALL "
          "SELECT (SELECT min(space) FROM record WHERE space>s.name) FROM s WHERE s.name NOT NULL) "
          "SELECT name FROM s WHERE name NOT NULL AND name<?2");
      const std::string end = std::string(prefix) + '\xff';
      bind(q, 1, prefix);
      bind(q, 2, end);
      while (q.executeStep()) {
        const SQLite::Column name = q.getColumn(0);
        if (!emit({name.getText(), size_t(name.getBytes())})) break;
      }
    });
  }

  void drop_space(const Call &call, std::string_view space) override {
    check_space(space, limits());
    check_writable();
    with(call, [&] {
      Write write(*this);
      SQLite::Statement drop(*db_, "DELETE FROM record WHERE space=?");
      bind(drop, 1, space);
      if (drop.exec() == 0) return;
      next_revision();
      write.commit();
    });
  }

 private:
  struct Reset {
    SQLite::Statement &statement;
    ~Reset() {
      statement.tryReset();
      statement.clearBindings();  // values are bound without a copy
    }
  };

  // BEGIN IMMEDIATE, so that what the preconditions saw still holds at the end; rolled back unless committed.
  class Write {
   public:
    explicit Write(StorageSqlite &self) : turn_(self.wait_for_turn()), db_(*self.db_) {
      db_.exec("BEGIN IMMEDIATE");
    }
    ~Write() {
      if (!sqlite3_get_autocommit(db_.getHandle())) db_.tryExec("ROLLBACK");
    }
    void commit() { db_.exec("COMMIT"); }

   private:
    const std::unique_lock<std::timed_mutex> turn_;
    SQLite::Database &db_;
  };

  // Writers of one process take turns: SQLite's way to wait for another writer is to look again after a
  // sleep, in which nobody writes.
  static std::shared_ptr<std::timed_mutex> turn_of(const std::string &path) {
    static std::mutex all;
    static std::map<std::string, std::weak_ptr<std::timed_mutex>> turns;
    const std::lock_guard lock(all);
    std::erase_if(turns, [](const auto &t) { return t.second.expired(); });
    auto turn = turns[path].lock();
    if (!turn) turns[path] = turn = std::make_shared<std::timed_mutex>();
    return turn;
  }
  std::unique_lock<std::timed_mutex> wait_for_turn() {
    std::unique_lock lock(*turn_, std::defer_lock);
    constexpr auto kLook = std::chrono::milliseconds(20);  // whether the call was cancelled
    while (!lock.try_lock_for(kLook))
      if (call_->cancelled() || now_ns() >= give_up_ns_) break;  // then SQLite says that it is locked
    return lock;
  }

  void connect() {
    const int access = read_only_ ? SQLite::OPEN_READONLY : SQLite::OPEN_READWRITE;
    db_.emplace(path_, access | SQLite::OPEN_NOMUTEX | SQLite::OPEN_NOFOLLOW);
    sqlite3 *raw = db_->getHandle();
    sqlite3_busy_handler(raw, &on_busy, this);
    for (const int off :
         {SQLITE_DBCONFIG_ENABLE_TRIGGER, SQLITE_DBCONFIG_ENABLE_VIEW, SQLITE_DBCONFIG_TRUSTED_SCHEMA})
      sqlite3_db_config(raw, off, 0, nullptr);
    sqlite3_db_config(raw, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    sqlite3_db_config(raw, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    sqlite3_wal_autocheckpoint(raw, kCheckpointPages);

    if (db_->execAndGet("PRAGMA application_id").getInt() != kApplicationId)
      refuse(COFFER_FAILED_PRECONDITION, named(path_) + " is a database, but not a vault of storage-sqlite");
    const int schema = db_->execAndGet("PRAGMA user_version").getInt();
    if (schema > kSchema)
      refuse(COFFER_FAILED_PRECONDITION, named(path_) + " was written by a newer version (schema " +
                                             std::to_string(schema) + "); upgrade Coffer");
    if (schema < kSchema) refuse(COFFER_DATA_LOSS, named(path_) + " is damaged; restore it from a backup");
    db_->exec("PRAGMA synchronous=FULL; PRAGMA cache_size=-8000");
  }

  int64_t next_revision() {
    SQLite::Statement &next =
        prepared(next_, "UPDATE head SET revision=revision+1 WHERE id=1 RETURNING revision");
    const Reset reset{next};
    if (!next.executeStep())
      refuse(COFFER_DATA_LOSS, named(path_) + " has lost its head; restore it from a backup");
    const int64_t revision = next.getColumn(0).getInt64();
    next.executeStep();
    return revision;
  }

  void check_writable() {
    if (read_only_) refuse(COFFER_FAILED_PRECONDITION, named(path_) + " is open for reading only");
  }

  SQLite::Statement &prepared(std::optional<SQLite::Statement> &slot, const char *sql) {
    if (!slot) slot.emplace(*db_, sql);
    return *slot;
  }
  static void bind(SQLite::Statement &s, int at, std::string_view text) { s.bind(at, std::string(text)); }
  static std::string_view blob(SQLite::Statement &s, int at) {
    const SQLite::Column column = s.getColumn(at);
    const void *data = column.getBlob();
    return {data ? static_cast<const char *>(data) : "", size_t(column.getBytes())};
  }

  static uint64_t now_ns() {
    timespec t{};
    ::clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
  }

  // Another process holds the lock: wait a little, as long as the call lasts.
  static int on_busy(void *self_, int tries) {
    auto *self = static_cast<StorageSqlite *>(self_);
    if (self->call_->cancelled() || now_ns() >= self->give_up_ns_) return 0;
    pollfd cancel{self->call_->cancel_fd(), POLLIN, 0};
    const timespec pause{0, std::min(tries + 1, 20) * 250'000};
    ::ppoll(&cancel, cancel.fd >= 0 ? 1 : 0, &pause, nullptr);
    return 1;
  }

  // Runs `body` for one call: its deadline rules the busy handler, and what SQLite throws becomes an Error
  // whose text is ours (SQLite's could quote its input).
  template <class F>
  auto with(const Call &call, F &&body) -> decltype(body()) {
    call_ = &call;
    give_up_ns_ = call.deadline_ns() ? call.deadline_ns() : now_ns() + kDefaultPatienceNs;
    try {
      return body();
    } catch (const SQLite::Exception &e) {
      throw translated(e);
    }
  }

  Error translated(const SQLite::Exception &e) const {
    const auto say = [&](coffer_status s, const std::string &text) {
      return Error{s, named(path_) + text, "sqlite", e.getExtendedErrorCode()};
    };
    switch (e.getErrorCode() & 0xff) {
      case SQLITE_BUSY:
      case SQLITE_LOCKED:
        if (call_->cancelled()) return say(COFFER_CANCELLED, ": cancelled");
        if (call_->deadline_ns()) return say(COFFER_DEADLINE_EXCEEDED, " is locked by another process");
        return say(COFFER_UNAVAILABLE, " is locked by another process");
      case SQLITE_FULL:
        return say(COFFER_RESOURCE_EXHAUSTED, " cannot grow: the disk is full");
      case SQLITE_NOMEM:
        return say(COFFER_RESOURCE_EXHAUSTED, ": out of memory");
      case SQLITE_READONLY:
      case SQLITE_PERM:
        return say(COFFER_FAILED_PRECONDITION,
                   " cannot be written: the file or its file system is read-only");
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

  std::string path_;
  bool read_only_ = false;
  const Call *call_ = nullptr;  // of the call being served
  uint64_t give_up_ns_ = 0;
  std::shared_ptr<std::timed_mutex> turn_;
  std::optional<SQLite::Database> db_;
  std::optional<SQLite::Statement> get_, find_, put_, delete_, next_;  // after db_: they go first
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
