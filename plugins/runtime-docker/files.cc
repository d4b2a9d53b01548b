#include "files.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "engine.h"

namespace coffer::runtime_docker {
namespace {
using sdk::Error;

constexpr int kLockPollMs = 5;
const char *const kOwnTmpfs = "mode=0700,nr_inodes=100000";

Error errno_error(coffer_status status, const std::string &what, int error) {
  if (error == ENOSPC || error == ENOMEM || error == EDQUOT) status = COFFER_RESOURCE_EXHAUSTED;
  return {status, what + ": " + std::strerror(error), "errno", error};
}

bool in_memory(const std::string &path) {
  struct statfs fs;
  return ::statfs(path.c_str(), &fs) == 0 && (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
}

// Ours alone, whatever its parent lets others do.
bool make_private(const std::string &path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return false;
  struct stat st;
  if (::lstat(path.c_str(), &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != ::geteuid()) return false;
  return (st.st_mode & 077) == 0 || ::chmod(path.c_str(), 0700) == 0;
}

// Kernels before 6.4 do not know `noswap`.
bool mount_tmpfs(const std::string &path) {
  const std::string best = std::string(kOwnTmpfs) + ",noswap";
  for (const char *options : {best.c_str(), kOwnTmpfs})
    if (::mount("coffer", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, options) == 0) return true;
  return false;
}

bool usable(const std::string &path) { return make_private(path) && in_memory(path); }

// `hidden`: also those that begin with a dot.
std::vector<std::string> names_in(int folder, bool hidden = false) {
  std::vector<std::string> out;
  const int fd = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd >= 0 ? ::fdopendir(fd) : nullptr;
  if (!dir) return out;
  while (const dirent *entry = ::readdir(dir))
    if (const std::string_view name = entry->d_name;
        name != "." && name != ".." && (hidden || name[0] != '.'))
      out.emplace_back(name);
  ::closedir(dir);
  return out;
}

// Removes what is in a folder of ours.  `wipe`: the bytes go now, not with the last mount of a container that
// still runs; but who has a file open would read half of it.
void empty_folder(int folder, bool wipe) {
  for (const std::string &name : names_in(folder, true)) {
    struct stat st;
    if (::fstatat(folder, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (S_ISDIR(st.st_mode)) {
      const Fd below(::openat(folder, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (below) empty_folder(below.get(), wipe);
      ::unlinkat(folder, name.c_str(), AT_REMOVEDIR);
      continue;
    }
    if (wipe && S_ISREG(st.st_mode))
      Fd(::openat(folder, name.c_str(), O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC));
    ::unlinkat(folder, name.c_str(), 0);
  }
}

Fd open_folder(const std::string &path) {
  return Fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

void write_all(int fd, const uint8_t *data, size_t size) {
  while (size) {
    const ssize_t n = ::write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw errno_error(COFFER_UNAVAILABLE, "a file secret cannot be written", errno);
    data += n;
    size -= static_cast<size_t>(n);
  }
}

void check_in_memory(int fd) {
  struct statfs fs;
  if (::fstatfs(fd, &fs) != 0) throw errno_error(COFFER_UNAVAILABLE, "a file secret cannot be opened", errno);
  if (fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC)
    throw Error{COFFER_FAILED_PRECONDITION, "the folder for file secrets is not in memory any more"};
}

// Bytes, owner, mode of an empty file.
void write_file(int fd, const coffer_delivery &d, uint32_t uid, uint32_t gid) {
  write_all(fd, d.value.data, d.value.size);
  const bool root = ::geteuid() == 0;
  if (root && ::fchown(fd, uid, gid) != 0)
    throw errno_error(COFFER_UNAVAILABLE, "the owner of a file secret", errno);
  if (::fchmod(fd, root ? d.mode : 0444 | (d.mode & 0111 ? 0111 : 0)) != 0)
    throw errno_error(COFFER_UNAVAILABLE, "the mode of a file secret", errno);
}

// All of a folder's own names but ..data and the generation `keep`.
void remove_generations(int folder, const std::string &keep) {
  for (const std::string &name : names_in(folder, true)) {
    if (!name.starts_with("..") || name == "..data" || name == keep) continue;
    const Fd old(::openat(folder, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (old) empty_folder(old.get(), false);
    ::unlinkat(folder, name.c_str(), old ? AT_REMOVEDIR : 0);
  }
}

}  // namespace

SecretFiles SecretFiles::open(const std::string &wanted, const std::string &runtime_dir,
                              const std::string &engine) {
  std::string root;
  if (!wanted.empty()) {
    if (!usable(wanted))
      throw Error{COFFER_FAILED_PRECONDITION,
                  "`files` names " + wanted + ", which is not a tmpfs of this user's own"};
    root = wanted;
  } else if (::geteuid() == 0) {
    // /run can be a disk, and where it is not it is often noexec: a mount of our own does for both.
    const Fd turn = open_folder("/run");  // two at once mount it once
    struct stat run, own;
    if (turn && ::flock(turn.get(), LOCK_EX) == 0 && ::fstat(turn.get(), &run) == 0) {
      const bool fresh = ::access("/run/coffer", F_OK) != 0;
      if (make_private("/run/coffer") && ::stat("/run/coffer", &own) == 0 && own.st_dev == run.st_dev &&
          (fresh || !in_memory("/run/coffer")))
        mount_tmpfs("/run/coffer");
    }
    if (usable("/run/coffer")) root = "/run/coffer";
  } else {
    const std::string own = runtime_dir.empty() ? "" : runtime_dir + "/coffer";
    const std::string shared = "/dev/shm/coffer-" + std::to_string(::geteuid());
    root = !own.empty() && in_memory(runtime_dir) && usable(own) ? own
           : in_memory("/dev/shm") && usable(shared)             ? shared
                                                                 : "";
  }
  if (root.empty())
    throw Error{
        COFFER_FAILED_PRECONDITION,
        "there is no place in memory for file secrets: no tmpfs at /run/coffer, $XDG_RUNTIME_DIR or /dev/shm",
        "",
        0,
        0,
        "Mount a tmpfs and name it as `files` under [runtime] in engine.toml."};
  const std::string folder = root + "/" + engine;
  if (!make_private(folder)) throw errno_error(COFFER_UNAVAILABLE, "folder " + folder, errno);
  return SecretFiles(folder);
}

std::string SecretFiles::path(const std::string &instance, size_t index) const {
  return folder_ + "/" + instance + "/" + std::to_string(index);
}

std::string SecretFiles::folder_path(const std::string &instance, size_t index) const {
  return folder_ + "/" + instance + "/folder" + std::to_string(index);
}

Fd SecretFiles::prepare(const std::string &instance, size_t n, size_t n_folders) const {
  const std::string dir = folder_ + "/" + instance;
  for (;;) {
    if (!make_private(dir)) throw errno_error(COFFER_UNAVAILABLE, "folder " + dir, errno);
    Fd fd = open_folder(dir);
    if (!fd || ::flock(fd.get(), LOCK_SH) != 0) throw errno_error(COFFER_UNAVAILABLE, "folder " + dir, errno);
    struct stat there, ours;
    if (::stat(dir.c_str(), &there) != 0 || ::fstat(fd.get(), &ours) != 0 || there.st_ino != ours.st_ino)
      continue;  // swept between the two
    for (size_t i = 0; i < n; ++i) {
      const Fd file(
          ::openat(fd.get(), std::to_string(i).c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
      if (!file) throw errno_error(COFFER_UNAVAILABLE, "a file secret cannot be made", errno);
    }
    for (size_t i = 0; i < n_folders; ++i) {
      const std::string name = "folder" + std::to_string(i);
      // The files' modes say who may read them.
      if ((::mkdirat(fd.get(), name.c_str(), 0755) != 0 && errno != EEXIST) ||
          ::fchmodat(fd.get(), name.c_str(), 0755, 0) != 0)
        throw errno_error(COFFER_UNAVAILABLE, "a folder of file secrets cannot be made", errno);
    }
    return fd;
  }
}

void SecretFiles::replace(const std::string &instance, size_t index,
                          const std::vector<const coffer_delivery *> &files, const Owner &of) const {
  const auto check = [](bool done) {
    if (!done) throw errno_error(COFFER_UNAVAILABLE, "a folder of file secrets cannot be changed", errno);
  };
  const Fd folder = open_folder(folder_path(instance, index));
  check(static_cast<bool>(folder));
  check_in_memory(folder.get());
  // The generation that is there; what else lies beside it is of a caller that was killed.
  char now[32] = "";
  if (::readlinkat(folder.get(), "..data", now, sizeof now - 1) < 0) check(errno == ENOENT);
  remove_generations(folder.get(), now);
  const std::string next = ".." + std::to_string(std::strtoull(now + 2 * (now[0] == '.'), nullptr, 10) + 1);
  check(::mkdirat(folder.get(), next.c_str(), 0755) == 0 &&
        ::fchmodat(folder.get(), next.c_str(), 0755, 0) == 0);
  const Fd generation(::openat(folder.get(), next.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  check(static_cast<bool>(generation));
  for (const coffer_delivery *d : files) {
    const std::string path(sdk::view(d->name)), name = path.substr(path.rfind('/') + 1);
    const Fd file(
        ::openat(generation.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    check(static_cast<bool>(file));
    const auto [uid, gid] = of(*d);
    write_file(file.get(), *d, uid, gid);
    if (::symlinkat(("..data/" + name).c_str(), folder.get(), name.c_str()) != 0) check(errno == EEXIST);
  }
  check(::symlinkat(next.c_str(), folder.get(), "..next") == 0);
  check(::renameat(folder.get(), "..next", folder.get(), "..data") == 0);
  remove_generations(folder.get(), next);
}

void SecretFiles::fill(const std::string &instance, size_t index, const coffer_delivery &d, uint32_t uid,
                       uint32_t gid) const {
  // The inode that the engine is going to bind: written in place.
  const Fd file(::open(path(instance, index).c_str(), O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC));
  if (!file) throw errno_error(COFFER_UNAVAILABLE, "a file secret cannot be opened", errno);
  check_in_memory(file.get());
  write_file(file.get(), d, uid, gid);
}

void SecretFiles::remove(const std::string &instance) const {
  const std::string dir = folder_ + "/" + instance;
  const Fd fd = open_folder(dir);
  if (!fd) return;
  // Once more where an update() wrote meanwhile; the next one finds no folder.
  for (int tries = 0;; ++tries) {
    empty_folder(fd.get(), true);
    if (::rmdir(dir.c_str()) == 0 || errno == ENOENT) return;
    if (errno != ENOTEMPTY || tries == 100)
      throw errno_error(COFFER_UNAVAILABLE, "folder " + dir + " cannot be removed", errno);
  }
}

std::vector<std::string> SecretFiles::instances() const {
  const Fd fd = open_folder(folder_);
  return fd ? names_in(fd.get()) : std::vector<std::string>{};
}

bool SecretFiles::abandoned(const std::string &instance) const {
  const Fd fd = open_folder(folder_ + "/" + instance);
  return fd && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0;
}

Fd InstanceNotes::lock(const sdk::Call &call, const std::string &instance) const {
  Fd file(::openat(folder_.get(), instance.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) throw errno_error(COFFER_UNAVAILABLE, "the note of instance " + instance, errno);
  while (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR)
      throw errno_error(COFFER_UNAVAILABLE, "the note of instance " + instance, errno);
    wait_for(call, -1, 0, kLockPollMs);
  }
  return file;
}

void InstanceNotes::note_stop_order(const std::string &instance, bool ordered) const {
  const Fd file(
      ::openat(folder_.get(), instance.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file || (ordered && ::write(file.get(), "stop\n", 5) != 5))
    throw errno_error(COFFER_UNAVAILABLE, "the note of instance " + instance, errno);
}

bool InstanceNotes::stop_ordered(const std::string &instance) const {
  struct stat st;
  return ::fstatat(folder_.get(), instance.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0;
}

void InstanceNotes::remove(const std::string &instance) const {
  ::unlinkat(folder_.get(), instance.c_str(), 0);
}

std::vector<std::string> InstanceNotes::instances() const { return names_in(folder_.get()); }

}  // namespace coffer::runtime_docker
